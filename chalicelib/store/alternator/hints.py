"""Hints: what processors read of the schedule."""

from collections.abc import Collection, Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests, time_index
from chalicelib.store.alternator.directory import named_shards
from chalicelib.store.alternator.time_index import TimeIndex
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import Hint, HintPage


class Hints:
    """These methods of TaskQueue. shards: those configured."""

    def __init__(
        self, requester: Requester, schedule: TimeIndex, shards: int, clock: Clock
    ) -> None:
        self._requester = requester
        self._schedule = schedule
        self._shards = shards
        self._clock = clock
        self._named: set[tuple[int, int]] = set()

    async def shards(self) -> Collection[int]:
        named = await named_shards(self._requester, self._schedule)
        return sorted(named | set(range(self._shards)))

    async def occupied(
        self, shards: Collection[int], *, since_ms: int, until_ms: int
    ) -> Collection[int]:
        """Those whose directory names a bucket of this time: it does before the bucket's first row,
        and until the bucket is long over. One request tells this of up to 100 buckets."""
        schedule = self._schedule
        buckets = range(schedule.bucket_of(since_ms), until_ms, schedule.bucket_ms)
        self._named = {(shard, bucket) for shard, bucket in self._named if bucket in buckets}
        unnamed = set(shards) - {shard for shard, _ in self._named}
        if len(unnamed) < 2:
            return shards  # To read the one costs no more.
        rows = {schedule.bucket_row(shard, at): (shard, at) for shard in unnamed for at in buckets}
        found = await self._requester.get_items(schedule.table, [row.key for row in rows])
        at = {(item["slot"]["S"], item["at"]["S"]) for item in found}
        self._named |= {place for row, place in rows.items() if (row.slot, row.at) in at}
        return set(shards) & {shard for shard, _ in self._named}

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        low = resume or time_index.time_key(since_ms or 0)
        span = (low, time_index.time_key(until_ms))
        if since_ms is None:
            buckets = await self._named_buckets(shard, time_index.time_of(low), until_ms)
        else:
            first = self._schedule.bucket_of(time_index.time_of(low))
            buckets = range(first, until_ms, self._schedule.bucket_ms)
        hints: list[Hint] = []
        for bucket in buckets:
            hints += await self._read(shard, bucket, span, resume, limit - len(hints) + 1)
            if len(hints) > limit:
                last = hints[limit - 1]
                return HintPage(hints[:limit], time_index.at(last.due_at_ms, last.id))
        return HintPage(hints, None)

    async def _named_buckets(self, shard: int, since_ms: int, until_ms: int) -> Sequence[int]:
        """Those the directory names, and always the current one and the one of `until`."""
        schedule = self._schedule
        first = schedule.bucket_of(since_ms)
        span = (time_index.time_key(first), time_index.time_key(until_ms))
        query = requests.query(schedule.table, "slot", schedule.directory(shard), between=span)
        rows = self._requester.items(query)
        named = {time_index.time_of(row["at"]["S"]) async for row in rows}
        always = {schedule.bucket_of(ms) for ms in (self._clock.now_ms(), until_ms - 1)}
        return sorted(bucket for bucket in named | always if first <= bucket < until_ms)

    async def _read(
        self, shard: int, bucket: int, span: tuple[str, str], resume: str | None, most: int
    ) -> Sequence[Hint]:
        """The first hints of a bucket behind `resume`. A drained one that is over is closed."""
        schedule = self._schedule
        slot = schedule.slot(shard, bucket)
        query = requests.query(schedule.table, "slot", slot, between=span, limit=most)
        hints: list[Hint] = []
        is_empty = True
        async for row in self._requester.items(query):
            is_empty = False
            if row["at"]["S"] != resume:
                hints.append(time_index.hint_of(row))
            if len(hints) == most:
                break
        low_ms, high_ms = map(time_index.time_of, span)
        is_whole = low_ms <= bucket and bucket + schedule.bucket_ms <= high_ms
        if is_empty and is_whole and schedule.may_close(bucket, self._clock.now_ms()):
            row_of_bucket = [schedule.bucket_row(shard, bucket)]
            await self._requester.write(time_index.batches(row_of_bucket, delete=True))
        return hints
