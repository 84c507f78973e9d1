"""Rows of the timeline that lead to no task which needs them: they are deleted."""

import math
from collections.abc import Collection, Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.rows import Row, batches, position_of
from chalicelib.store.alternator.streams import Entry
from chalicelib.store.alternator.wire.requester import PATIENCE_S, Requester
from chalicelib.task import UNFINISHED, Task, TaskState

ORPHAN_MS = 60_000
"""A row without a task is deleted when it was seen twice, this long apart, by whomever: the first
one notes in the row when that was. A create that puts the row again takes the note away."""
SEEN = "orphan_ms"
OPEN_KEPT_S = PATIENCE_S + 2
"""A task that fails stays in `open` for longer than a list takes. So a list of failed and
unfinished tasks finds it in `failed` or in `open`, whichever it reads first."""


class Pruning:
    """All methods raise StoreUnavailable."""

    def __init__(
        self,
        requester: Requester,
        put: IndexRows,
        indexes: Indexes,
        tasks_table: str,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._put = put
        self._indexes = indexes
        self._tasks_table = tasks_table
        self._clock = clock

    async def prune(self, entries: Sequence[Entry], now_ms: int) -> tuple[int, Sequence[Task]]:
        """Delete those of these rows of `open` or `failed` that are of no use.

        Returns how many were deleted, and the tasks that the others lead to.
        """
        positions = [position_of(entry.at) for entry in entries]
        tasks = await tasks_by_id(self._requester, self._tasks_table, [p.id for p in positions])
        deleted, orphans, failed_ids = list[Row](), list[Row](), set[str]()
        for entry, position in zip(entries, positions, strict=True):
            row = Row(self._indexes.table, entry.slot, entry.at)
            task = tasks.get(position.id)
            if position.id not in tasks:
                orphans.append(row)
            elif (
                task is not None and self._is_alien(row, task) and not has_just_failed(task, now_ms)
            ):
                deleted += [row, *(twin for twin in self._twin(row) if self._is_alien(twin, task))]
                failed_ids |= {task.id} if task.state is TaskState.FAILED else set()
        for row in await self._long_orphaned(orphans):
            deleted += [row, *self._twin(row)]
        await self._requester.write(batches(deleted, delete=True))
        await self.put_again(failed_ids)
        return len(deleted), [task for task in tasks.values() if task is not None]

    async def put_again(self, failed_ids: Collection[str]) -> None:
        """Called after the rows of `open` of failed tasks were deleted: some may be run again."""
        tasks = await tasks_by_id(self._requester, self._tasks_table, failed_ids)
        again = [task for task in tasks.values() if task and task.state in UNFINISHED]
        await self._put.put_open_again(again)

    def _is_alien(self, row: Row, task: Task) -> bool:
        """Whether the task does not need this row, as it is."""
        return row[:3] not in {needed[:3] for needed in self._indexes.rows(task)}

    def _twin(self, row: Row) -> Sequence[Row]:
        """The row in `all` that was put with one in `open`."""
        if not row.slot.startswith(self._indexes.open.kind):
            return []
        slot = self._indexes.all.kind + row.slot.removeprefix(self._indexes.open.kind)
        return [Row(row.table, slot, row.at)]

    async def _long_orphaned(self, orphans: Sequence[Row]) -> Sequence[Row]:
        """Those that were seen without a task before: no create can still be under way. By the
        store's clock, which all who note and delete share."""
        now_ms = self._clock.now_ms()
        rows = {(row.slot, row.at): row for row in orphans}
        items = await self._requester.get_items(
            self._indexes.table, [row.key for row in rows.values()]
        )
        found = list[Row]()
        for item in items:
            seen_ms = int(item[SEEN]["N"]) if SEEN in item else math.inf
            if seen_ms <= now_ms - ORPHAN_MS:
                found.append(rows[item["slot"]["S"], item["at"]["S"]])
            elif seen_ms > now_ms:
                noted = {**item, SEEN: {"N": str(now_ms)}}
                await self._requester.decide(requests.put_row(self._indexes.table, noted))
        return found


def has_just_failed(task: Task, now_ms: int) -> bool:
    """Whether its row in `open` has to stay: see OPEN_KEPT_S."""
    if task.state is not TaskState.FAILED or task.finished_ts_ms is None:
        return False
    return now_ms - task.finished_ts_ms < OPEN_KEPT_S * 1000
