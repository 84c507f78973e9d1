"""The views' lists: a walk along the timeline, and the tasks that it leads to."""

from collections.abc import Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import earlier, rows
from chalicelib.store.alternator.earlier import Earlier
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.streams import Entry, Stream
from chalicelib.store.alternator.timeline import Timeline
from chalicelib.store.alternator.walk import Span, Walk
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import PAGE_PAYLOAD_CHARS, Position, TaskFilter, TaskPage
from chalicelib.task import Task, TaskState

EXAMINED_MAX = 2_000
SCANNED_AS_EXAMINED = 50
"""So many rows that a filter left out cost the store as much as one task that was read."""
CHUNK_LEAST, CHUNK_MOST = 50, 100
"""Rows of the timeline whose tasks are read together."""
AHEAD_MS = 60_000
"""No task whose `send_ts` is farther ahead has been claimed, whatever the clocks say."""


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
        clock: Clock,
        examined_max: int = EXAMINED_MAX,
    ) -> None:
        self._requester = requester
        self._indexes = indexes
        self._parallel = parallel
        self._table = table
        self._clock = clock
        self._examined_max = examined_max
        self._earlier = Earlier(requester, indexes.table, clock)

    async def list(self, filter: TaskFilter) -> TaskPage:
        """See TaskStore. All of it within one deadline: a task whose state changes meanwhile stands
        in one of the kinds that are walked for at least as long."""
        deadline_s = self._requester.deadline_s()
        span = _span(filter, self._clock.now_ms())
        if span.is_empty:
            return TaskPage([], None)
        walk = await self._walk(filter, span, deadline_s)
        found, examined, payload_chars = list[Task](), 0, 0
        size = min(CHUNK_MOST, max(filter.limit + 1, CHUNK_LEAST))
        last: str | None = None
        while entries := await walk.take(size):
            chunk = _positions(entries, last, filter)
            for task in await self._fitting(chunk, filter, deadline_s):
                if len(found) == filter.limit or payload_chars >= PAGE_PAYLOAD_CHARS:
                    return TaskPage(found, Position(found[-1].send_ts_ms, found[-1].id))
                found.append(task)
                payload_chars += len(task.payload or "")
            last = entries[-1].at
            scanned = sum(entry.scanned for entry in entries)
            examined += len(chunk) + scanned // SCANNED_AS_EXAMINED
            if examined >= self._examined_max:
                return TaskPage(found, rows.position_of(last))
        return TaskPage(found, None)

    async def _walk(self, filter: TaskFilter, span: Span, deadline_s: float) -> Walk:
        names = filter.indexes
        kinds = [kind for kind in self._indexes.timelines if kind.kind in names]
        walk = Walk(
            self._requester, self._parallel, kinds, span, deadline_s=deadline_s, rank=Rank.LIST
        )
        await walk.begin(await self._streams(walk, kinds, span, deadline_s))
        return walk

    async def _streams(
        self, walk: Walk, kinds: Sequence[Timeline], span: Span, deadline_s: float
    ) -> Sequence[Stream]:
        """Of what version 0.1 left: it had no `failed`."""
        kind = earlier.OPEN if kinds == [self._indexes.open] else earlier.ALL
        shards = await self._earlier.shards(kind, deadline_s)
        return earlier.streams(shards, kind, walk.query, low=span.low, descending=span.descending)

    async def _fitting(
        self, chunk: Sequence[Position], filter: TaskFilter, deadline_s: float
    ) -> Sequence[Task]:
        """A create that lost against another under its id may have left rows elsewhere."""
        ids = [position.id for position in chunk]
        tasks = await tasks_by_id(
            self._requester, self._table, ids, deadline_s=deadline_s, rank=Rank.LIST
        )
        found = ((position, tasks.get(position.id)) for position in chunk)
        return [
            task
            for position, task in found
            if task and task.send_ts_ms == position.send_ts_ms and filter.accepts(task)
        ]


def _positions(entries: Sequence[Entry], last: str | None, filter: TaskFilter) -> list[Position]:
    """Of the rows that lie ahead, each once: two rows of a task stand side by side."""
    texts = dict.fromkeys(entry.at for entry in entries if not entry.scanned and entry.at != last)
    return [position for position in map(rows.position_of, texts) if filter.is_ahead(position)]


def _span(filter: TaskFilter, now_ms: int) -> Span:
    """What a walk reads."""
    lows, highs = [filter.since_ms], [filter.until_ms]
    if filter.states is not None and TaskState.SCHEDULED not in filter.states:
        highs.append(now_ms + AHEAD_MS)
    if filter.after is not None and filter.descending:
        highs.append(filter.after.send_ts_ms + 1)
    elif filter.after is not None:
        lows.append(filter.after.send_ts_ms)
    low_ms = max((ms for ms in lows if ms is not None), default=rows.YEAR_ONE_MS)
    high_ms = min((ms for ms in highs if ms is not None), default=None)
    return Span(
        low=rows.time_key(max(low_ms, rows.YEAR_ONE_MS)),
        high=rows.LAST if high_ms is None else rows.time_key(max(high_ms, rows.YEAR_ONE_MS)),
        descending=filter.descending,
        types=filter.types,
        wanted=max(filter.limit + 1, CHUNK_LEAST),
    )
