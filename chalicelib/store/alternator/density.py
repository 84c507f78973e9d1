"""How dense the tasks are: at which level of the timeline a row is put.

Rows of an hour stand in the partition of their day until they are many, then in one of their own;
those of a day, and of ten minutes, alike. Nobody counts them. Whoever puts a row draws a lot, and
one of ROWS opens the bucket below; others see its name. So it does not matter how many processes
there are and how short they live. Nothing depends on it but what a list costs.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from random import Random
from typing import TypeVar

from chalicelib.clock import Clock
from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.timeline import DEEPEST, TimeBucket, Timeline
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester

T = TypeVar("T")

ROWS = (500, 500, 1_000)
"""About so many rows of a day stand at level 0, of an hour at level 1, of ten minutes at level 2.

A page of ScyllaDB ends at 10,000 tombstones, and they last for ten days: what was drained of a
partition fits into one or two."""
SOONER = 25
"""If the bucket before was dense, this one is opened after so many times fewer rows: else each
process would put many rows above at the start of each day."""
LOOK_EVERY_S = 10.0
KNOWN_MAX = 20_000


class Density:
    """Of one kind. rows: see ROWS."""

    def __init__(
        self,
        requester: Requester,
        timeline: Timeline,
        clock: Clock,
        rng: Random,
        rows: Collection[int] = ROWS,
    ) -> None:
        self._requester = requester
        self._timeline = timeline
        self._clock = clock
        self._rng = rng
        self._rows = tuple(rows)
        self._opened: OrderedDict[TimeBucket, None] = OrderedDict()
        self._looked_s: OrderedDict[TimeBucket, float] = OrderedDict()

    async def look(
        self, times_ms: Collection[int], deadline_s: float, rank: Rank | None = None
    ) -> None:
        """See which buckets of these times are opened, as far as that is not known.

        Raises StoreUnavailable.
        """
        now_s = self._clock.monotonic_s()
        unknown = {bucket: None for ms in times_ms for bucket in self._unknown(ms, now_s)}
        if not unknown:
            return
        keys: list[Item] = [bucket.names[0].key for bucket in unknown]
        table = self._timeline.table
        items = await self._requester.get_items(table, keys, deadline_s=deadline_s, rank=rank)
        found = {(item["slot"]["S"], item["at"]["S"]) for item in items}
        for bucket in unknown:
            if bucket.names[0][1:3] in found:
                _remember(self._opened, bucket, None)
            else:
                _remember(self._looked_s, bucket, now_s)

    def level(self, time_ms: int) -> int:
        """Where a row of this time is put, by what is known."""
        path = self._timeline.path(DEEPEST, time_ms)
        return max([bucket.level for bucket in path if bucket in self._opened], default=0)

    def drawn(self, level: int, time_ms: int) -> Iterable[Row]:
        """The names of the bucket below, to be put with a row, if the lot falls on it."""
        if level == DEEPEST:
            return ()
        bucket = self._timeline.path(level + 1, time_ms)[-1]
        before = self._timeline.path(level + 1, bucket.start_ms - 1)[-1]
        rows = self._rows[level] // (SOONER if before in self._opened else 1)
        if self._rng.randrange(max(1, rows)):
            return ()
        _remember(self._opened, bucket, None)
        return bucket.names

    def _unknown(self, time_ms: int, now_s: float) -> Iterable[TimeBucket]:
        for bucket in self._timeline.path(DEEPEST, time_ms):
            if bucket in self._opened:
                continue
            if now_s < self._looked_s.get(bucket, -LOOK_EVERY_S) + LOOK_EVERY_S:
                return
            yield bucket


def _remember(known: OrderedDict[TimeBucket, T], bucket: TimeBucket, value: T) -> None:
    known[bucket] = value
    known.move_to_end(bucket)
    if len(known) > KNOWN_MAX:
        known.popitem(last=False)
