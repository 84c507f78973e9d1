"""The timeline as version 0.1 kept it: still read, and moved by the sweep.

    partition <kind><shard>/<hour>   rows <send_ts>#<id>
    partition <kind><shard>          the shard's directory: one row <hour> an hour
    partition <kind>shards           one row <shard> a shard

Kinds are `all` and `open`. The records of that version tell no place.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.rows import Row, at, at_of, start_of, time_key, time_of
from chalicelib.store.alternator.streams import Stream
from chalicelib.store.alternator.timeline import END, START
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import Task, shard_of

HOUR_MS = 3_600_000
ALL, OPEN = "all", "open"
LOOK_EVERY_S = 60.0
"""A process that found nothing of the version before looks again after this."""


def rows(table: str, task: Task, shards: int, kinds: Iterable[str] = (ALL, OPEN)) -> list[Row]:
    """The rows that version 0.1 put for a task."""
    hour, shard = start_of(task.send_ts_ms, HOUR_MS), shard_of(task.id, shards)
    return [Row(table, slot(kind, shard, hour), at(task.send_ts_ms, task.id)) for kind in kinds]


def slot(kind: str, shard: int, hour: int) -> str:
    return f"{kind}{shard}/{time_key(hour)}"


def directory(kind: str, shard: int) -> str:
    return f"{kind}{shard}"


def name(hour: int) -> str:
    """The row of an hour in a directory."""
    return time_key(hour)


def root(kind: str) -> str:
    return f"{kind}shards"


class Earlier:
    """Which shards of that version there are."""

    def __init__(self, requester: Requester, table: str, clock: Clock) -> None:
        self._requester = requester
        self._table = table
        self._clock = clock
        self._none_since_s: dict[str, float] = {}

    async def shards(self, kind: str, deadline_s: float | None = None) -> Sequence[int]:
        """Raises StoreUnavailable."""
        now_s = self._clock.monotonic_s()
        if now_s < self._none_since_s.get(kind, -math.inf) + LOOK_EVERY_S:
            return []
        query = requests.query(self._table, "slot", root(kind))
        found = await self._requester.page(query, deadline_s=deadline_s)
        if not found.items:
            self._none_since_s[kind] = now_s
        return [int(at_of(item)) for item in found.items]


def streams(
    shards: Sequence[int],
    kind: str,
    query: Callable[[str, str], Request],
    *,
    low: str,
    descending: bool,
) -> Sequence[Stream]:
    """What a walk reads of them, beside the timeline. query: of a partition, from a key on."""
    first = time_key(start_of(time_of(low), HOUR_MS))

    def hour(shard: int, name: str) -> Sequence[Stream]:
        partition = slot(kind, shard, start_of(time_of(name), HOUR_MS))
        return [Stream(query(partition, low), partition, lambda _: ())]

    def end(name: str) -> str:
        return time_key(time_of(name) + HOUR_MS - 1) + END

    def start(name: str) -> str:
        return name + START

    return [
        Stream(
            query(directory(kind, shard), first),
            directory(kind, shard),
            partial(hour, shard),
            end if descending else start,
        )
        for shard in shards
    ]
