"""Counts what a processor does, by minute and hour, and writes its rows while they change.

Rows hold what was counted since they began, and only their processor writes them: a row that is put
again replaces itself. A killed processor loses what it counted since its last write.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from chalicelib.clock import Clock
from chalicelib.processing.observation import Observation, observed, statistics_of
from chalicelib.statistics import Statistics, StatisticsRow, Step, encoded
from chalicelib.store.contract import TaskQueue
from chalicelib.task import Task

WRITE_INTERVAL_S = 5.0
STARTS_PER_WRITE = 50
WRITE_LATEST_S = 10.0
"""After fewer starts it writes this long after the last time. So statistics cost at most 0.02
requests a task, or one in 10 s."""
ROWS_MAX = 100
"""Rows that wait for a store that does not answer; of more the oldest are dropped."""
STEPS = tuple(Step)
MINUTE_MS = Step.MINUTE.ms
OBSERVED_MAX = 500
"""Adding up many observations at once costs less; so many at most take a millisecond."""


@dataclass(slots=True)
class Counted:
    """What a row holds. changes, written: how many changes it has, and had when it was written."""

    part: int
    types: dict[str, Statistics] = field(default_factory=dict)
    changes: int = 0
    written: int = 0

    def add(self, type: str, more: Statistics) -> None:
        self.types.setdefault(type, Statistics()).merge(more)
        self.changes += 1


class StatisticsWriter:
    """A Record. A row is never continued once it was dropped: whatever the clock does, what is
    counted for its time later is another part."""

    def __init__(self, processor: str, queue: TaskQueue, clock: Clock) -> None:
        self._processor = processor
        self._queue = queue
        self._clock = clock
        self._observed: list[Observation] = []
        self._rows: dict[tuple[Step, int], Counted] = {}
        self._parts = 0
        self._starts = 0
        self._written_s = -math.inf

    def __call__(self, event: str, task: Task | None, **more: Any) -> None:
        if (found := observed(event, task, more)) is None:
            return
        self._observed.append(found)
        if len(self._observed) >= OBSERVED_MAX:
            self._count()

    async def write(self) -> None:
        """Put the rows that have changed, unless there is little to tell yet.

        Raises StoreUnavailable: they are put with a later call.
        """
        self._count()
        now_s = self._clock.monotonic_s()
        if self._starts >= STARTS_PER_WRITE or now_s >= self._written_s + WRITE_LATEST_S:
            await self._put_changed()

    async def write_now(self) -> None:
        """The same, however little there is."""
        self._count()
        await self._put_changed()

    async def _put_changed(self) -> None:
        changed = [(key, row, row.changes) for key, row in self._rows.items() if _has_changed(row)]
        if not changed:
            return
        self._starts, self._written_s = 0, self._clock.monotonic_s()
        rows = [
            StatisticsRow(*key, self._processor, row.part, encoded(row.types))
            for key, row, _ in changed
        ]
        try:
            await self._queue.put_statistics(rows)
            for _, row, changes in changed:
                row.written = changes
        finally:
            self._drop_over()

    def _count(self) -> None:
        """Add what was observed since the last time to its rows."""
        together: dict[tuple[int, str], list[Observation]] = {}
        for found in self._observed:
            together.setdefault((found.at_ms // MINUTE_MS, found.type), []).append(found)
        self._observed.clear()
        for (minute, type), of_type in together.items():
            more = statistics_of(of_type)
            self._starts += more.started
            for step in STEPS:
                start_ms = minute * MINUTE_MS // step.ms * step.ms
                self._row_of(step, start_ms).add(type, more)

    def _row_of(self, step: Step, start_ms: int) -> Counted:
        row = self._rows.get((step, start_ms))
        if row is None:
            self._parts += 1
            row = self._rows[step, start_ms] = Counted(self._parts)
        return row

    def _drop_over(self) -> None:
        """Rows that are written and over; and the oldest ones, if too many wait."""
        now_ms = self._clock.now_ms()
        for key in sorted(self._rows, key=lambda key: key[1]):
            step, start_ms = key
            is_over = not start_ms <= now_ms < start_ms + step.ms
            if is_over and (not _has_changed(self._rows[key]) or len(self._rows) > ROWS_MAX):
                del self._rows[key]


def _has_changed(row: Counted) -> bool:
    return row.changes > row.written
