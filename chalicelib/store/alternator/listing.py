"""The views' lists: a walk along the timeline, and the tasks that it leads to."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from chalicelib.store.alternator import requests, time_index
from chalicelib.store.alternator.directory import named_shards
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.streams import Stream, merged
from chalicelib.store.alternator.time_index import Indexes, TimeIndex
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import PAGE_PAYLOAD_CHARS, Position, TaskFilter, TaskPage
from chalicelib.task import Task

T = TypeVar("T", bound=tuple[Any, ...])

EXAMINED_MAX = 2_000
DIRECTORY_PAGE = 200
CHUNK_LEAST, CHUNK_MOST = 50, 100
"""Rows of the timeline whose tasks are read together."""


class Listing:
    """`list` of TaskStore, asynchronous. table: of the tasks.

    examined_max: a page is cut short after about so many rows that did not fit its filter.
    """

    def __init__(
        self,
        requester: Requester,
        indexes: Indexes,
        parallel: Parallel,
        table: str,
        examined_max: int = EXAMINED_MAX,
    ) -> None:
        self._requester = requester
        self._indexes = indexes
        self._parallel = parallel
        self._table = table
        self._examined_max = examined_max

    async def list(self, filter: TaskFilter) -> TaskPage:
        """See TaskStore."""
        index = self._indexes.open if filter.walks_open else self._indexes.all
        walk = Walk(self._requester, self._parallel, index, filter).positions()
        found: list[Task] = []
        examined = payload_chars = 0
        size = min(CHUNK_MOST, max(filter.limit + 1, CHUNK_LEAST))
        while chunk := await _chunk(walk, size):
            for task in await self._fitting(chunk, filter):
                if len(found) == filter.limit or payload_chars >= PAGE_PAYLOAD_CHARS:
                    return TaskPage(found, Position(found[-1].send_ts_ms, found[-1].id))
                found.append(task)
                payload_chars += len(task.payload or "")
            examined += len(chunk)
            if examined >= self._examined_max:
                return TaskPage(found, chunk[-1])
        return TaskPage(found, None)

    async def _fitting(self, chunk: Sequence[Position], filter: TaskFilter) -> Sequence[Task]:
        """A create that lost against another under its id may have left rows elsewhere."""
        ids = [position.id for position in chunk]
        tasks = await tasks_by_id(self._requester, self._table, ids)
        found = ((position, tasks.get(position.id)) for position in chunk)
        return [
            task
            for position, task in found
            if task and task.send_ts_ms == position.send_ts_ms and filter.accepts(task)
        ]


class Walk:
    """Along one index, in the order of a filter, through all shards."""

    def __init__(
        self, requester: Requester, parallel: Parallel, index: TimeIndex, filter: TaskFilter
    ) -> None:
        self._requester = requester
        self._parallel = parallel
        self._index = index
        self._filter = filter
        self._span = _span(filter)

    async def positions(self) -> AsyncIterator[Position]:
        """Those behind `after`, in order, fetched as they are read.

        A task can have a row in two shards, if SHARDS was changed: they stand side by side.
        """
        previous: Position | None = None
        async for bucket, shards in self._buckets():
            async for position in self._bucket(bucket, shards):
                if position != previous and self._filter.is_ahead(position):
                    yield position
                previous = position

    async def _buckets(self) -> AsyncIterator[tuple[int, Sequence[int]]]:
        """Buckets that overlap the span, in order, each with the shards whose directory has it."""
        index, (low, high) = self._index, self._span
        shards = sorted(await named_shards(self._requester, index, rank=Rank.LIST))
        first = time_index.time_key(index.bucket_of(time_index.time_of(low)))
        streams = [self._directory(shard, (first, high)) for shard in shards]
        bucket, owners = None, list[int]()
        async for named, shard in self._merged(streams):
            if bucket is not None and named != bucket:
                yield bucket, owners
                owners = []
            bucket = named
            owners.append(shard)
        if bucket is not None:
            yield bucket, owners

    def _directory(self, shard: int, between: tuple[str, str]) -> Stream[tuple[int, int]]:
        request = requests.query(
            self._index.table,
            "slot",
            self._index.directory(shard),
            between=between,
            limit=DIRECTORY_PAGE,
            descending=self._filter.descending,
        )

        def read(row: Item) -> tuple[int, int]:
            return time_index.time_of(row["at"]["S"]), shard

        return Stream(self._requester, request, read)

    def _bucket(self, bucket: int, shards: Sequence[int]) -> AsyncIterator[Position]:
        def stream(shard: int) -> Stream[Position]:
            request = requests.query(
                self._index.table,
                "slot",
                self._index.slot(shard, bucket),
                between=self._span,
                limit=max(self._filter.limit + 1, CHUNK_LEAST),
                descending=self._filter.descending,
            )
            return Stream(self._requester, request, time_index.position_of)

        return self._merged(list(map(stream, shards)))

    def _merged(self, streams: Sequence[Stream[T]]) -> AsyncIterator[T]:
        return merged(streams, self._parallel, descending=self._filter.descending)


def _span(filter: TaskFilter) -> tuple[str, str]:
    """The first and the last key that a walk reads."""
    low = max(filter.since_ms or time_index.YEAR_ONE_MS, time_index.YEAR_ONE_MS)
    high = filter.until_ms
    if filter.after is not None and not filter.descending:
        low = max(low, filter.after.send_ts_ms)
    if filter.after is not None and filter.descending:
        last = filter.after.send_ts_ms + 1
        high = last if high is None else min(high, last)
    return time_index.time_key(low), "9" * 15 if high is None else time_index.time_key(high)


async def _chunk(positions: AsyncIterator[Position], size: int) -> Sequence[Position]:
    """The next ones, at most so many."""
    chunk: list[Position] = []
    async for position in positions:
        chunk.append(position)
        if len(chunk) == size:
            break
    return chunk
