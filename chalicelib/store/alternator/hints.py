"""Hints: what processors read of the schedule."""

from collections.abc import Collection, Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests, rows, schedule
from chalicelib.store.alternator.schedule import Schedule
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import Hint, HintPage


class Hints:
    """These methods of TaskQueue."""

    def __init__(self, requester: Requester, index: Schedule, clock: Clock) -> None:
        self._requester = requester
        self._schedule = index
        self._clock = clock
        self._named: set[tuple[int, int]] = set()

    async def shards(self) -> Collection[int]:
        """Those configured, and all up to the highest that was ever used."""
        query = requests.query(self._schedule.table, "slot", schedule.ROOT)
        used = [int(row["at"]["S"]) async for row in self._requester.items(query)]
        return range(max([self._schedule.shards - 1, *used]) + 1)

    async def occupied(
        self, shards: Collection[int], *, since_ms: int, until_ms: int
    ) -> Collection[int]:
        """Those whose directory names a bucket of this time: it does before the bucket's first row,
        and until the bucket is long over. One request tells this of up to 100 buckets."""
        index = self._schedule
        buckets = range(index.bucket_of(since_ms), until_ms, schedule.BUCKET_MS)
        self._named = {(shard, bucket) for shard, bucket in self._named if bucket in buckets}
        unnamed = set(shards) - {shard for shard, _ in self._named}
        if len(unnamed) < 2:
            return shards  # To read the one costs no more.
        names = {index.bucket_row(shard, at): (shard, at) for shard in unnamed for at in buckets}
        found = await self._requester.get_items(index.table, [name.key for name in names])
        at = {(item["slot"]["S"], item["at"]["S"]) for item in found}
        self._named |= {place for name, place in names.items() if (name.slot, name.at) in at}
        return set(shards) & {shard for shard, _ in self._named}

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        low = resume or rows.time_key(since_ms or 0)
        span = (low, rows.time_key(until_ms))
        if since_ms is None:
            buckets = await self._named_buckets(shard, rows.time_of(low), until_ms)
        else:
            first = self._schedule.bucket_of(rows.time_of(low))
            buckets = range(first, until_ms, schedule.BUCKET_MS)
        hints: list[Hint] = []
        for bucket in buckets:
            hints += await self._read(shard, bucket, span, resume, limit - len(hints) + 1)
            if len(hints) > limit:
                last = hints[limit - 1]
                return HintPage(hints[:limit], rows.at(last.due_at_ms, last.id))
        return HintPage(hints, None)

    async def _named_buckets(self, shard: int, since_ms: int, until_ms: int) -> Sequence[int]:
        """Those the directory names, and always the current one and the one of `until`."""
        index = self._schedule
        first = index.bucket_of(since_ms)
        span = (rows.time_key(first), rows.time_key(until_ms))
        query = requests.query(index.table, "slot", index.directory(shard), between=span)
        named = {rows.time_of(rows.at_of(row)) async for row in self._requester.items(query)}
        always = {index.bucket_of(ms) for ms in (self._clock.now_ms(), until_ms - 1)}
        return sorted(bucket for bucket in named | always if first <= bucket < until_ms)

    async def _read(
        self, shard: int, bucket: int, span: tuple[str, str], resume: str | None, most: int
    ) -> Sequence[Hint]:
        """The first hints of a bucket behind `resume`. A drained one that is over is closed."""
        index = self._schedule
        slot = index.slot(shard, bucket)
        query = requests.query(index.table, "slot", slot, between=span, limit=most)
        hints: list[Hint] = []
        is_empty = True
        async for row in self._requester.items(query):
            is_empty = False
            if row["at"]["S"] != resume:
                hints.append(schedule.hint_of(row))
            if len(hints) == most:
                break
        low_ms, high_ms = map(rows.time_of, span)
        is_whole = low_ms <= bucket and bucket + schedule.BUCKET_MS <= high_ms
        if is_empty and is_whole and index.may_close(bucket, self._clock.now_ms()):
            row_of_bucket = [index.bucket_row(shard, bucket)]
            await self._requester.write(rows.batches(row_of_bucket, delete=True))
        return hints
