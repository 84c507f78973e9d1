"""The end of a record: finished tasks are kept for some days, tombstones for one.

The record goes first, on condition that it is as it was seen; then what led to it. Who dies between
leaves rows without a task, which the sweep deletes when it meets them.
"""

from collections.abc import Sequence

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.rows import batches
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import FINISHED, Task, TaskState

DAY_MS = 86_400_000


class Retention:
    """days: finished tasks are kept for so long; 0: for ever. Methods raise StoreUnavailable."""

    def __init__(
        self, requester: Requester, indexes: Indexes, parallel: Parallel, table: str, days: int
    ) -> None:
        self._requester = requester
        self._indexes = indexes
        self._parallel = parallel
        self._table = table
        self._days = days

    def before_ms(self, now_ms: int) -> int | None:
        """What finished before this time goes, and so none goes that was to run later; None: none
        ever goes."""
        return now_ms - self._days * DAY_MS if self._days else None

    async def retire(self, tasks: Sequence[Task], now_ms: int) -> Sequence[Task]:
        """Delete those that finished long ago, and their rows. Returns them."""
        old = [task for task in tasks if self._is_old(task, now_ms)]
        gone = await self._forget(old)
        found = [[*self._indexes.rows_to_delete(t), *self._indexes.obsolete(t)] for t in gone]
        rows = [row for of_task in found for row in of_task]
        await self._requester.write(batches(rows, delete=True), rank=Rank.CLEAN)
        return gone

    async def purge(self, tombstones: Sequence[Task], now_ms: int) -> Sequence[Task]:
        """Delete those whose day is over. Returns them. No rows may lead to them any more."""
        return await self._forget([t for t in tombstones if (t.purge_at_s or 0) * 1000 <= now_ms])

    def _is_old(self, task: Task, now_ms: int) -> bool:
        before_ms, finished_ms = self.before_ms(now_ms), task.finished_ts_ms
        if task.state not in FINISHED or before_ms is None or finished_ms is None:
            return False
        return finished_ms < before_ms

    async def _forget(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Those whose record is gone now."""
        is_gone = await self._parallel.map(self._forget_one, tasks)
        return [task for task, gone in zip(tasks, is_gone, strict=True) if gone]

    async def _forget_one(self, task: Task) -> bool:
        """Whether nothing stands there now: another sweeper, or a try of this one whose answer was
        lost, may have come before."""
        assert task.state in FINISHED or task.state is TaskState.DELETED
        request = requests.forget(self._table, task)
        try:
            await self._requester.decide(request, key=task.id, rank=Rank.CLEAN)
        except ConditionFailed as refused:
            return refused.item is None
        return True
