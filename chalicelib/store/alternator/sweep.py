"""The sweep: the tasks are the authority, so what leads to them can be made again from them.

It puts again, under the same keys, the rows of a task that are missing, and deletes rows that lead
to a task which needs them no more. The fast one looks at what is overdue, the slow one
(`slow_sweep.py`) at everything.
"""

from chalicelib.clock import Clock
from chalicelib.store.alternator import rows
from chalicelib.store.alternator.closing import Closing
from chalicelib.store.alternator.moving import Mover
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.progress import Progress
from chalicelib.store.alternator.pruning import Pruning
from chalicelib.store.alternator.repair import Repair
from chalicelib.store.alternator.retention import Retention
from chalicelib.store.alternator.slow_sweep import FailedPass, Pass, RetentionPass, TaskPass
from chalicelib.store.alternator.walk import Span, Walk
from chalicelib.store.alternator.wire.requester import Requester

OVERDUE_MS = 60_000
"""The fast sweep looks at unfinished tasks this much past their time."""
ROWS_MAX = 8_000
"""Rows that one fast sweep looks at; the next one goes on behind them."""
BATCH = 50
"""Tasks looked at together."""


class Sweeper:
    """Remembers where the fast sweep stopped.

    prefix: of the tables. retention_days: see Retention.
    """

    def __init__(
        self,
        requester: Requester,
        pruning: Pruning,
        mover: Mover,
        indexes: Indexes,
        parallel: Parallel,
        prefix: str,
        clock: Clock,
        retention_days: int,
    ) -> None:
        tasks_table = f"{prefix}tasks"
        self._requester = requester
        self._pruning = pruning
        self._mover = mover
        self._indexes = indexes
        self._parallel = parallel
        self._repair = Repair(requester, indexes)
        self._closing = Closing(requester, clock)
        retention = Retention(requester, indexes, parallel, tasks_table, retention_days)
        progress = Progress(requester, f"{prefix}workers", clock)
        walks = (requester, parallel, indexes, pruning, self._closing, retention)
        self._passes: list[Pass] = [
            RetentionPass(*walks, progress, clock),
            FailedPass(*walks, progress, clock),
            TaskPass(requester, indexes, self._repair, retention, tasks_table, progress, clock),
        ]
        self._resume = rows.FIRST

    async def overdue(self, now_ms: int) -> int:
        """The fast sweep: rows of `open`, and what their tasks need."""
        span = Span(low=self._resume, high=rows.time_key(now_ms - OVERDUE_MS))
        walk = Walk(self._requester, self._parallel, [self._indexes.open], span)
        await walk.begin()
        changed = seen = 0
        while entries := await walk.take(BATCH):
            deleted, tasks = await self._pruning.prune(entries, now_ms)
            changed += deleted + await self._repair.repair(tasks, now_ms, set())
            seen += len(entries)
            if seen >= ROWS_MAX:
                break
        self._resume = entries[-1].at if entries else rows.FIRST
        drained = walk.drained()
        await self._closing.close([b for b in drained if rows.time_key(b.start_ms) >= span.low])
        return changed + await self._mover.move(now_ms)

    async def some(self, most: int, now_ms: int) -> int:
        """The slow sweep: about so many rows more. Returns how many were put or deleted.

        A pass that fails does not hold up the others; what it raised is raised then.
        """
        changed, left = 0, most
        failures = list[Exception]()
        for one in self._passes:
            share = min(left, max(1, most // one.share))
            try:
                step = await one.step(share, now_ms)
            except Exception as error:
                failures.append(error)
                continue
            changed += step.changed
            left = max(1, left - step.cost)
        for failure in failures:
            raise failure
        return changed
