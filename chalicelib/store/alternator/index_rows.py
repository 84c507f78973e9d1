"""Rows that lead to tasks, in the schedule and the timeline: put, deleted and put again."""

from collections.abc import Mapping, Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests, time_index
from chalicelib.store.alternator.time_index import Announced, Indexes, Row, TimeIndex
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import Task

Places = Mapping[str, Sequence[tuple[TimeIndex, int]]]
"""By the id of a task: the indexes that list it, and at which time in milliseconds."""


class IndexRows:
    """Remembers which buckets it has named in the directories.

    All methods raise StoreUnavailable. deadline_s: of the monotonic clock, None for the default.
    """

    def __init__(self, requester: Requester, indexes: Indexes, clock: Clock) -> None:
        self._requester = requester
        self._indexes = indexes
        self._clock = clock
        self._announced = Announced()

    async def put(self, tasks: Sequence[Task], deadline_s: float) -> None:
        """The directory first, then hint, `open` and `all`: a crash leaves surplus rows only."""
        now_ms = self._clock.now_ms()
        places = {task.id: self._indexes.times(task) for task in tasks}
        await self._write(self._missing(places, now_ms), deadline_s)
        await self._write([row for task in tasks for row in self._indexes.rows(task)], deadline_s)
        # A bucket that is over may have been closed while we wrote its first row.
        over = {
            id: [(index, time) for index, time in pairs if index.is_over(time, now_ms)]
            for id, pairs in places.items()
        }
        await self._write(self._missing(over, now_ms), deadline_s)
        self._remember(places, now_ms)

    async def put_hint(self, task: Task, deadline_s: float) -> None:
        """Of a task that is scheduled again by its settlement."""
        assert task.due_at_ms is not None
        now_ms = self._clock.now_ms()
        places = {task.id: [(self._indexes.schedule, task.due_at_ms)]}
        await self._write(self._missing(places, now_ms), deadline_s, Rank.SETTLE)
        row = self._indexes.hint_row(task.due_at_ms, task.id, task.type)
        await self._write([row], deadline_s, Rank.SETTLE)
        self._remember(places, now_ms)

    async def put_open_again(self, tasks: Sequence[Task]) -> None:
        """The rows of unfinished tasks in `open`, then their buckets, which may be closed."""
        deadline_s = self._requester.deadline_s()
        rows = [self._indexes.open_rows(task) for task in tasks]
        await self._write([row for row, *_ in rows], deadline_s)
        await self._write([row for _, *directory in rows for row in directory], deadline_s)

    async def delete(self, task: Task) -> None:
        """All rows of the task as it is."""
        rows = self._indexes.rows(task)
        deadline_s = self._requester.deadline_s()
        await self._requester.write(time_index.batches(rows, delete=True), deadline_s=deadline_s)

    async def has_hint(self, task: Task) -> bool:
        """Whether the hint of this task stands; False for a task that needs none."""
        if task.due_at_ms is None:
            return False
        row = self._indexes.hint_row(task.due_at_ms, task.id, task.type)
        return "Item" in await self._requester.decide(requests.get_row(row.table, row.key))

    def _missing(self, places: Places, now_ms: int) -> Sequence[Row]:
        """Directory rows to put before those of the tasks with these ids."""
        return [
            row
            for id, pairs in places.items()
            for row in self._announced.missing(pairs, id, now_ms)
        ]

    def _remember(self, places: Places, now_ms: int) -> None:
        for id, pairs in places.items():
            self._announced.remember(pairs, id, now_ms)

    async def _write(
        self, rows: Sequence[Row], deadline_s: float, rank: Rank | None = None
    ) -> None:
        await self._requester.write(time_index.batches(rows), deadline_s=deadline_s, rank=rank)
