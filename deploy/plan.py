"""What a cluster needs, as data: each request and CQL statement with its reason.

Pure: nothing is sent from here. Alternator keeps each table in a keyspace of its own,
`alternator_<table>`; names are always quoted.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from chalicelib.errors import InvalidSetting
from chalicelib.store.alternator import requests, tables
from chalicelib.store.alternator.tables import TABLES, Table

GRACE_S = 86_400
"""How long tombstones of the indexes are kept: longer than hinted handoff (3 h), not 10 days."""
TOMBSTONE_MODE = "timeout"
FACTOR = 3
PERMISSIONS = ("SELECT", "MODIFY")
INDEXES = tuple(table for table in TABLES if table.isolation == "forbid_rmw")
"""Tables of plain rows that can be made again: an old row that came back would do no harm."""


class Step(NamedTuple):
    """kind: HTTP, Alternator or CQL; text: what is sent; why: its reason."""

    kind: str
    text: str
    why: str


def steps(prefix: str, nodes: int, role: str | None) -> Iterator[Step]:
    """All that provisioning sends to an empty cluster, in order. role None: none is made."""
    seen = f"until every one of {nodes} nodes lists all {nodes}"
    yield Step(
        "HTTP", "GET /localnodes", f"{seen}: a table gets its replicas when it is created, for good"
    )
    yield from _table_steps(prefix)
    for statement in (topology(), peers()):
        why = "three racks, so that each holds a replica of everything; both of the same node"
        yield Step("CQL", statement, why)
    for table in TABLES:
        yield Step("CQL", replication(prefix, table), f"{factor_for(nodes)} replicas, verified")
    for table in INDEXES:
        yield Step("CQL", describe(prefix, table), "how it keeps tombstones now")
        yield Step("CQL", alter(prefix, table), _options_reason(table))
    if role is not None:
        yield from _role_steps(prefix, role)


def _table_steps(prefix: str) -> Iterator[Step]:
    for table in TABLES:
        body = json.dumps(tables.definition(table, prefix))
        yield Step("Alternator", f"CreateTable {body}", _isolation_reason(table))
    body = json.dumps({"TableName": prefix + tables.EXPIRING, **tables.TIME_TO_LIVE})
    reason = "statistics are purged: those of minutes after 2 days, of hours after 90"
    yield Step("Alternator", f"UpdateTimeToLive {body}", reason)
    for table in TABLES:
        yield Step(
            "Alternator",
            f"DescribeTable, ListTagsOfResource {prefix}{table.name}",
            "keys and write isolation must be what the service was written for",
        )
    warm_up = requests.warm_up(f"{prefix}tasks")
    yield Step(
        "Alternator",
        f"{warm_up.action} {json.dumps(warm_up.body)}",
        "the first conditional write makes the table of Paxos, which can take seconds",
    )


def _role_steps(prefix: str, role: str) -> Iterator[Step]:
    yield Step("CQL", role_exists(role), "a role that is there is left as it is")
    yield Step(
        "CQL", create_role(role, "<random>"), "the service's own; nobody needs this password"
    )
    yield Step("CQL", permissions(role), "what is granted already")
    for table in TABLES:
        for permission in PERMISSIONS:
            yield Step("CQL", grant(prefix, table, role, permission), _grant_reason(permission))
    yield Step("CQL", secret(role), "Alternator's secret key of a role is the hash of its password")


def factor_for(nodes: int) -> int:
    """Replicas that Alternator gives a table created when so many nodes were known."""
    return FACTOR if nodes >= FACTOR else 1


def _isolation_reason(table: Table) -> str:
    if table.isolation == "always_use_lwt":
        return "the authority: every write is a lightweight transaction of one partition"
    return "rows that may be repeated or late: plain writes, and no condition by mistake"


def _options_reason(table: Table) -> str:
    what = (
        "heartbeats, statistics"
        if table.name == "workers"
        else "rows that are put once and deleted once"
    )
    return (
        f"{what}: a read passes their tombstones for a day, not for ten;"
        " the mode is named, since an ALTER without it would set `repair`"
    )


def _grant_reason(permission: str) -> str:
    reads = "GetItem, BatchGetItem, Query, Scan, and what conditional writes return"
    writes = "PutItem, UpdateItem, DeleteItem, BatchWriteItem; no CREATE, ALTER or DROP"
    return reads if permission == "SELECT" else writes


# CQL


def keyspace(prefix: str, table: Table) -> str:
    return f"alternator_{prefix}{table.name}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def place(prefix: str, table: Table) -> str:
    return f"{quoted(keyspace(prefix, table))}.{quoted(prefix + table.name)}"


def checked_role(name: str) -> str:
    """Raises InvalidSetting for a name that is not a plain word."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name):
        expected = "a lower-case letter, then at most 47 of a-z 0-9 _"
        raise InvalidSetting(f"--role {name!r}: expected {expected}")
    return name


def topology() -> str:
    return "SELECT data_center, rack, rpc_address FROM system.local"


def peers() -> str:
    return "SELECT peer, data_center, rack, rpc_address FROM system.peers"


def version() -> str:
    """Of the node that is asked. `release_version` is that of the Cassandra it stands in for."""
    return "SELECT version FROM system.versions WHERE key = 'local'"


def status() -> str:
    return "SELECT peer, dc, up, status FROM system.cluster_status"


def replication(prefix: str, table: Table) -> str:
    name = literal(keyspace(prefix, table))
    return (
        "SELECT keyspace_name, replication FROM system_schema.keyspaces"
        f" WHERE keyspace_name = {name}"
    )


def table_names(prefix: str, table: Table) -> str:
    name = literal(keyspace(prefix, table))
    return f"SELECT table_name FROM system_schema.tables WHERE keyspace_name = {name}"


def large_partitions(prefix: str, table: Table) -> str:
    return (
        "SELECT partition_size, rows, partition_key FROM system.large_partitions"
        f" WHERE keyspace_name = {literal(keyspace(prefix, table))}"
        f" AND table_name = {literal(prefix + table.name)} LIMIT 5"
    )


def describe(prefix: str, table: Table) -> str:
    return f"DESCRIBE TABLE {place(prefix, table)}"


def alter(prefix: str, table: Table) -> str:
    return (
        f"ALTER TABLE {place(prefix, table)}"
        f" WITH tombstone_gc = {{'mode': '{TOMBSTONE_MODE}'}} AND gc_grace_seconds = {GRACE_S}"
    )


def role_exists(role: str) -> str:
    return f"SELECT role, can_login, is_superuser FROM system.roles WHERE role = {literal(role)}"


def create_role(role: str, password: str) -> str:
    return (
        f"CREATE ROLE IF NOT EXISTS {quoted(role)}"
        f" WITH PASSWORD = {literal(password)} AND LOGIN = true AND SUPERUSER = false"
    )


def permissions(role: str) -> str:
    return f"SELECT resource, permissions FROM system.role_permissions WHERE role = {literal(role)}"


def resource(prefix: str, table: Table) -> str:
    """How the table of permissions names a table."""
    return f"data/{keyspace(prefix, table)}/{prefix}{table.name}"


def grant(prefix: str, table: Table, role: str, permission: str) -> str:
    return f"GRANT {permission} ON TABLE {place(prefix, table)} TO {quoted(role)}"


def secret(role: str) -> str:
    return f"SELECT salted_hash FROM system.roles WHERE role = {literal(role)}"


# What answers say


class Options(NamedTuple):
    """How a table keeps tombstones; None where its description does not say."""

    mode: str | None
    grace_s: int | None


WANTED = Options(TOMBSTONE_MODE, GRACE_S)


def options_of(description: str) -> Options:
    """From the CREATE statement that DESCRIBE TABLE answers with."""
    mode = re.search(r"tombstone_gc\s*=\s*\{[^}]*'mode'\s*:\s*'(\w+)'", description)
    grace = re.search(r"gc_grace_seconds\s*=\s*(\d+)", description)
    return Options(mode[1] if mode else None, int(grace[1]) if grace else None)


def factors_of(replication: Mapping[str, str | Sequence[str]]) -> dict[str, int]:
    """Replicas by data center. A rack list counts as many as it names."""
    return {
        name: _factor(value)
        for name, value in replication.items()
        if name not in ("class", "initial")
    }


def _factor(value: str | Sequence[str]) -> int:
    if isinstance(value, str):
        return int(value) if value.isdigit() else len(re.findall(r"[\w.-]+", value))
    return len(value)
