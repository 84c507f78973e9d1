"""The engine that tests run on, and how they share it.

It is an embedded one, or the one that ENGINE_URL names. There a table can take a second to make:
the tests of a process take turns on the same four tables, and each leaves them empty.
"""

import itertools
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from urllib.parse import urlsplit

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, SchedulerError, StoreMismatch
from chalicelib.store.alternator import requests, tables
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.requests import Item, Request
from chalicelib.store.alternator.tables import TABLES, Table
from chalicelib.store.alternator.wire.client import Client

PATIENCE_S = 3.0
"""An engine that has not answered after this is not there."""
AT_ONCE = 8
LISTINGS_MAX = 20
CREDENTIALS = ("ALTERNATOR_USER", "ALTERNATOR_SECRET", "ALTERNATOR_SECRET_FILE")
EXPECTED = "http://host:port of ScyllaDB's Alternator or of an embedded engine"


class Engine:
    """An embedded one: each test makes tables of its own, which end with it.

    settings: where it is and how to sign.
    """

    is_embedded = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @contextmanager
    def place(self, test: str, *, is_own: bool) -> Iterator[str]:
        """The prefix of tables that no other test uses meanwhile. They need not be there yet.

        test: its name; is_own: nobody else ever uses them.
        """
        yield _prefix_of(test)

    @contextmanager
    def tables(self, client: Client, prefix: str) -> Iterator[None]:
        """The tables of a place are there, and empty."""
        tables.create(client, prefix)
        yield


class Elsewhere(Engine):
    """One that somebody else runs: nothing may be left there.

    run: what the names of all tables of this process begin with.
    """

    is_embedded = False

    def __init__(self, settings: Settings, run: str) -> None:
        super().__init__(settings)
        self._run = run
        self._numbers = itertools.count(1)
        self._shared = self._next()
        self._is_made = False

    def _next(self) -> str:
        return f"{self._run}{next(self._numbers)}_"

    @contextmanager
    def place(self, test: str, *, is_own: bool) -> Iterator[str]:
        if not is_own:
            yield self._shared
            return
        prefix = self._run + _prefix_of(test)
        yield prefix
        drop(self.settings, prefix)

    @contextmanager
    def tables(self, client: Client, prefix: str) -> Iterator[None]:
        """Tables that could not be emptied are not used again."""
        is_shared = prefix == self._shared
        if not (is_shared and self._is_made):
            tables.create(client, prefix)
        if not is_shared:
            yield
            return
        self._shared, self._is_made = self._next(), False
        yield
        empty(client, prefix)
        self._shared, self._is_made = prefix, True


def _prefix_of(test: str) -> str:
    return f"t{zlib.crc32(test.encode())}_"


def named(env: Mapping[str, str]) -> Settings | None:
    """Where ENGINE_URL leads, with the credentials of the environment; None if it is not set.

    Raises InvalidSetting.
    """
    url = env.get("ENGINE_URL")
    if not url:
        return None
    if not _is_address(url):
        raise InvalidSetting(f"ENGINE_URL={url!r}: expected {EXPECTED}")
    given = {name: env[name] for name in CREDENTIALS if name in env}
    return Settings.from_env({"ALTERNATOR_ENDPOINTS": url.removesuffix("/")} | given)


def _is_address(url: str) -> bool:
    """Whether it is a host, with or without a port, and nothing else."""
    try:
        parts = urlsplit(url)
        is_there = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_there and re.fullmatch(r"http://[^/?#@\s]+/?", url) is not None


def must_answer(settings: Settings) -> None:
    """Raise InvalidSetting unless an engine is there that takes our credentials."""
    logging.getLogger("chalicelib").addHandler(logging.NullHandler())  # The error tells it all.
    try:
        with closing(Client.connect(settings, SystemClock(), patience_s=PATIENCE_S)) as client:
            answer = client.decide(Request("ListTables", {"Limit": 1}))
    except SchedulerError as error:
        answer = {"error": error}
    if "TableNames" not in answer:
        came = str(answer.get("error") or f"it answers ListTables with {answer}")
        raise InvalidSetting(
            f"ENGINE_URL={settings.endpoints[0]!r}: {' '.join(came.split())}; expected {EXPECTED}"
        )


def empty(client: Client, prefix: str) -> None:
    """Delete all rows, until a look finds none: a process that was killed may have sent more."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while deletions := [*_deletions(client, prefix)]:
            list(threads.map(lambda request: _decide(client, request), deletions))


def _deletions(client: Client, prefix: str) -> Iterator[Request]:
    for table in TABLES:
        name = prefix + table.name
        keys = [_key(table, row) for row in client.items(requests.scan(name, 0, 1, None))]
        if table.name == "tasks":
            yield from (_conditional_delete(name, key) for key in keys)
        elif table.name == "workers":
            yield from (requests.delete_row(name, key) for key in keys)
        else:
            parts = (keys[start : start + 25] for start in range(0, len(keys), 25))
            yield from (requests.write_rows({}, {name: part}) for part in parts)


def _key(table: Table, row: Item) -> Item:
    return {key["AttributeName"]: row[key["AttributeName"]] for key in table.key_schema}


def _conditional_delete(table: str, key: Item) -> Request:
    return Request("DeleteItem", {
        "TableName": table,
        "Key": key,
        "ConditionExpression": "attribute_exists(#id)",
        "ExpressionAttributeNames": {"#id": "id"},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    })  # fmt: skip


def _decide(client: Client, request: Request) -> None:
    with suppress(ConditionFailed):
        client.decide(request)


def drop(settings: Settings, prefix: str) -> None:
    """Delete all tables whose names begin so, until none is listed. Raises SchedulerError."""
    with closing(Client.connect(settings, SystemClock())) as client:
        for _ in range(LISTINGS_MAX):
            names = [name for name in table_names(client) if name.startswith(prefix)]
            if not names:
                return
            for name in names:
                with suppress(StoreMismatch):  # Its answer was lost, and it was sent again.
                    client.decide(Request("DeleteTable", {"TableName": name}))
    raise SchedulerError(f"they were deleted and are still listed: {', '.join(names)}")


def table_names(client: Client) -> Iterator[str]:
    """Those of all tables of the engine."""
    body: dict[str, str] = {}
    while True:
        answer = client.decide(Request("ListTables", body))
        yield from answer["TableNames"]
        if "LastEvaluatedTableName" not in answer:
            return
        body = {"ExclusiveStartTableName": answer["LastEvaluatedTableName"]}
