"""The rows of tasks: those that are missing are put again, those that are left are deleted."""

from collections.abc import Sequence

from chalicelib.store.alternator import rows
from chalicelib.store.alternator.lookup import rows_there
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import UNFINISHED, Task, TaskState

NAMED_MAX = 10_000
"""Names that one sweep remembers to have seen; many tasks lie in a bucket."""


class Repair:
    """All methods raise StoreUnavailable."""

    def __init__(self, requester: Requester, indexes: Indexes) -> None:
        self._requester = requester
        self._indexes = indexes

    async def repair(
        self, tasks: Sequence[Task], now_ms: int, named: set[Row], before_ms: int | None = None
    ) -> int:
        """Put what is missing of tasks, delete what is left of others. Returns how many rows.

        Of completed tasks only those are looked at whose `send_ts` is before a time: elsewhere
        nobody takes rows away. named: names that are there: not looked at again, and added to here.
        """
        wanted, surplus = list[Row](), list[Row]()
        for task in tasks:
            if self._needs_rows(task, now_ms, before_ms):
                names = self._indexes.names(task)
                wanted += [row for row in names if row not in named] + self._indexes.rows(task)
            if task.state is TaskState.DELETED:
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

    def _needs_rows(self, task: Task, now_ms: int, before_ms: int | None) -> bool:
        """Not while it runs under its lease: its hint may have been read already."""
        if task.state is TaskState.RUNNING:
            return task.is_claimable(now_ms)
        if task.state is TaskState.COMPLETED:
            return before_ms is not None and task.send_ts_ms < before_ms
        return task.state in UNFINISHED or task.state is TaskState.FAILED

    async def _write(self, changed: Sequence[Row], *, delete: bool = False) -> None:
        await self._requester.write(rows.batches(changed, delete=delete))
