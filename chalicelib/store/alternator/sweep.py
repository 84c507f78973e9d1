"""The sweep: the tasks are the authority, so what leads to them can be made again from them.

It puts again, under the same keys, the rows of a task that are missing, and deletes rows that lead
to a task which needs them no more.
"""

from collections.abc import Sequence

from chalicelib.clock import Clock
from chalicelib.errors import UnreadableTask
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.lookup import rows_there
from chalicelib.store.alternator.moving import Mover
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.pruning import Pruning
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.timeline import TimeBucket, Timeline
from chalicelib.store.alternator.walk import Span, Walk
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import UNFINISHED, Task, TaskState

OVERDUE_MS = 60_000
"""The fast sweep looks at unfinished tasks this much past their time."""
ROWS_MAX = 8_000
"""Rows that one fast sweep looks at; the next one goes on behind them."""
BATCH = 50
"""Tasks looked at together."""
NAMED_MAX = 10_000
"""Names that one sweep remembers to have seen; many tasks lie in a bucket."""


class Sweeper:
    """Remembers where the fast sweep stopped."""

    def __init__(
        self,
        requester: Requester,
        pruning: Pruning,
        mover: Mover,
        indexes: Indexes,
        parallel: Parallel,
        tasks_table: str,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._pruning = pruning
        self._mover = mover
        self._indexes = indexes
        self._parallel = parallel
        self._tasks_table = tasks_table
        self._clock = clock
        self._resume = rows.FIRST

    async def overdue(self, now_ms: int) -> int:
        """The fast sweep: rows of `open`, and what their tasks need."""
        span = Span(low=self._resume, high=rows.time_key(now_ms - OVERDUE_MS))
        walk = await self._walk(self._indexes.open, span)
        changed = seen = 0
        while entries := await walk.take(BATCH):
            deleted, tasks = await self._pruning.prune(entries, now_ms)
            changed += deleted + await self._repair(tasks, now_ms, set())
            seen += len(entries)
            if seen >= ROWS_MAX:
                break
        self._resume = entries[-1].at if entries else rows.FIRST
        await self._close([b for b in walk.drained() if rows.time_key(b.start_ms) >= span.low])
        return changed

    async def segment(self, segment: int, segments: int, now_ms: int) -> int:
        """The slow sweep: a part of the tasks, and of what is no part of a task."""
        changed, named = await self._mover.move(now_ms), set[Row]()
        if segment == 0:
            changed += await self._prune_failed(now_ms)
        scan = requests.scan(self._tasks_table, segment, segments, None)
        batch: list[Task] = []
        async for item in self._requester.items(scan):
            try:
                batch.append(requests.decode_task(item))
            except UnreadableTask:
                continue
            if len(batch) == BATCH:
                changed += await self._repair(batch, now_ms, named)
                batch = []
        return changed + await self._repair(batch, now_ms, named)

    async def _prune_failed(self, now_ms: int) -> int:
        """Whoever fails a task puts its row in `failed` before: if it dies between, nothing else
        tells of that row."""
        changed, walk = 0, await self._walk(self._indexes.failed, Span())
        while entries := await walk.take(BATCH):
            deleted, _ = await self._pruning.prune(entries, now_ms)
            changed += deleted
        return changed

    async def _walk(self, kind: Timeline, span: Span) -> Walk:
        walk = Walk(self._requester, self._parallel, [kind], span)
        await walk.begin()
        return walk

    async def _close(self, drained: Sequence[TimeBucket]) -> None:
        """Take drained buckets out of the timeline; name them again if a row came meanwhile.

        A producer that writes into a bucket which is over names it again behind its row.
        """
        now_ms = self._clock.now_ms()
        for bucket in drained:
            if not bucket.may_close(now_ms):
                continue
            await self._write(bucket.names, delete=True)
            if await self._has_rows(bucket):
                await self._write(bucket.names)

    async def _has_rows(self, bucket: TimeBucket) -> bool:
        for slot in bucket.slots:
            query = requests.query(bucket.kind.table, "slot", slot, limit=1)
            async for _ in self._requester.items(query):
                return True
        return False

    async def _repair(self, tasks: Sequence[Task], now_ms: int, named: set[Row]) -> int:
        """Put what is missing of tasks that are not completed, delete what is left of others.

        named: names that are there: not looked at again, and added to here.
        """
        wanted, surplus = list[Row](), list[Row]()
        for task in tasks:
            if self._needs_rows(task, now_ms):
                names = self._indexes.names(task)
                wanted += [row for row in names if row not in named] + self._indexes.rows(task)
            elif task.state is TaskState.DELETED:
                surplus += self._indexes.obsolete(task)
            elif task.state is TaskState.COMPLETED and (row := self._indexes.failed_row(task)):
                surplus += [row] if task.place is not None else []
        there = await rows_there(self._requester, wanted + surplus)
        missing = [row for row in dict.fromkeys(wanted) if row[:3] not in there]
        left = [row for row in surplus if row[:3] in there]
        await self._write([row for row in missing if row.is_directory])
        await self._write([row for row in missing if not row.is_directory])
        await self._write(left, delete=True)
        if len(named) < NAMED_MAX:
            named.update(row for row in wanted if row.is_directory)
        return len(missing) + len(left)

    def _needs_rows(self, task: Task, now_ms: int) -> bool:
        """Not while it runs under its lease: its hint may have been read already."""
        if task.state is TaskState.RUNNING:
            return task.is_claimable(now_ms)
        return task.state in UNFINISHED or task.state is TaskState.FAILED

    async def _write(self, put: Sequence[Row], *, delete: bool = False) -> None:
        await self._requester.write(rows.batches(put, delete=delete))
