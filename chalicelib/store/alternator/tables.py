"""The four tables: created with explicit keys and write isolation, and verified at start."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from chalicelib.clock import Sleep, pause
from chalicelib.errors import SchedulerError, StoreMismatch, StoreUnavailable
from chalicelib.store.alternator import outcome, requests
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire.client import Client

ISOLATION = "system:write_isolation"
ACTIVE_TRIES = 100
ACTIVE_PAUSE_S = 0.1
PURGE_ATTRIBUTE = "purge_at_s"


@dataclass(frozen=True, slots=True)
class Table:
    """name: without prefix; hash_key, range_key: attributes of type S; isolation: the tag."""

    name: str
    hash_key: str
    range_key: str | None
    isolation: str

    @property
    def key_schema(self) -> list[dict[str, str]]:
        keys = [{"AttributeName": self.hash_key, "KeyType": "HASH"}]
        if self.range_key:
            keys.append({"AttributeName": self.range_key, "KeyType": "RANGE"})
        return keys


TABLES = (
    Table("tasks", "id", None, "always_use_lwt"),
    Table("schedule", "slot", "at", "forbid_rmw"),
    Table("timeline", "slot", "at", "forbid_rmw"),
    Table("workers", "fleet", "processor", "forbid_rmw"),
)

EXPIRING = "workers"
"""The table in which rows have a time to live: statistics."""
TIME_TO_LIVE: JsonObject = {
    "TimeToLiveSpecification": {"Enabled": True, "AttributeName": PURGE_ATTRIBUTE}
}


def create(client: Client, prefix: str = "", sleep: Sleep = pause) -> Sequence[Table]:
    """Create the tables that are missing and wait until all can be used. Returns the former.

    Where none is missing, a role that may create none is enough.
    """
    lacking = missing(client, prefix)
    for table in lacking:
        try:
            # A failure can come although the table was created; the wait below decides.
            client.decide(Request("CreateTable", definition(table, prefix)))
        except SchedulerError as error:
            if error.details.get("reason") != "ResourceInUseException":
                raise
    for table in TABLES:
        _wait_active(client, prefix + table.name, sleep)
    is_new = any(table.name == EXPIRING for table in lacking)
    _expire(client, prefix + EXPIRING, is_needed=is_new)
    return lacking


def verify(client: Client, prefix: str = "") -> None:
    """Raise StoreMismatch unless every table is there with the keys and tags it needs.

    Raises StoreUnavailable when the store does not answer.
    """
    first, *others = TABLES
    verify_table(client, first, prefix)  # What is wrong with all is told once.
    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(lambda table: verify_table(client, table, prefix), others))


def verify_table(client: Client, table: Table, prefix: str = "") -> None:
    """As verify, for one table."""
    name = prefix + table.name
    described = describe(client, name)
    if described is None:
        raise StoreMismatch(
            f"table {name} is missing: create the tables with `python -m local tables`",
            table=name,
        )
    tagged = Request("ListTagsOfResource", {"ResourceArn": described["TableArn"]})
    tags = client.decide(tagged).get("Tags", [])
    isolation = {tag["Key"]: tag["Value"] for tag in tags}.get(ISOLATION)
    _expect(name, "keys", described["KeySchema"], table.key_schema)
    _expect(name, f"tag {ISOLATION}", isolation, table.isolation)


def warm_up(client: Client, prefix: str = "") -> None:
    """Make the first conditional write, which on ScyllaDB can take long, before anyone waits."""
    with contextlib.suppress(ConditionFailed):
        client.decide(requests.warm_up(f"{prefix}tasks"))


def describe(client: Client, name: str) -> JsonObject | None:
    """What the store says of a table; None if it is not there."""
    try:
        answer = client.decide(Request("DescribeTable", {"TableName": name}))
    except StoreMismatch:
        return None
    table: JsonObject = answer["Table"]
    return table


def definition(table: Table, prefix: str = "") -> dict[str, Any]:
    """The body of CreateTable."""
    return {
        "TableName": prefix + table.name,
        "KeySchema": table.key_schema,
        "AttributeDefinitions": [
            {"AttributeName": key["AttributeName"], "AttributeType": "S"}
            for key in table.key_schema
        ],
        "BillingMode": "PAY_PER_REQUEST",
        "Tags": [{"Key": ISOLATION, "Value": table.isolation}],
    }


def missing(client: Client, prefix: str = "") -> Sequence[Table]:
    """The tables that are not there."""
    return [table for table in TABLES if describe(client, prefix + table.name) is None]


def _wait_active(client: Client, name: str, sleep: Sleep) -> None:
    for _ in range(ACTIVE_TRIES):
        described = describe(client, name)
        if described is not None and described.get("TableStatus") == "ACTIVE":
            return
        sleep(ACTIVE_PAUSE_S)
    raise StoreUnavailable(f"table {name} did not become active")


def expires(client: Client, name: str) -> bool:
    """Whether the store purges rows of this table when their time is over."""
    described = client.decide(Request("DescribeTimeToLive", {"TableName": name}))
    return described["TimeToLiveDescription"].get("TimeToLiveStatus") in ("ENABLED", "ENABLING")


def _expire(client: Client, name: str, *, is_needed: bool) -> None:
    """Of a table that is older the role may not be allowed to: nothing rests on it."""
    try:
        if not expires(client, name):
            client.decide(Request("UpdateTimeToLive", {"TableName": name, **TIME_TO_LIVE}))
    except SchedulerError as error:
        if is_needed or not outcome.is_denial(error):
            raise


def _expect(table: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise StoreMismatch(
            f"table {table} has {what} {found}, expected {expected}: it belongs to something"
            " else or to another version; give this service its own TABLE_PREFIX",
            table=table,
        )
