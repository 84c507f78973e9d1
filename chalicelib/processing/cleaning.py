"""When a processor deletes the rows that are of no use any more: not while it has better to do."""

import math

from chalicelib.processing.agenda import Agenda
from chalicelib.processing.context import Context
from chalicelib.processing.store_watch import StoreWatch

CLEAN_LATER_S = 5.0
"""With a backlog, deletions may wait for so long: then they fill their batches."""
CLEAN_SLOW_S = 20.0
"""While the store is slow, all of them are made together, this long after the last time."""


class Cleaning:
    """Called about twice a second."""

    def __init__(self, context: Context, agenda: Agenda, watch: StoreWatch) -> None:
        self._queue = context.queue
        self._clock = context.clock
        self._batch_size = context.settings.batch_size
        self._agenda = agenda
        self._watch = watch
        self._cleaned_s = -math.inf

    async def step(self) -> None:
        now_s = self._clock.monotonic_s()
        self._watch.note(self._queue.pressure())
        if self._watch.is_slow and now_s < self._cleaned_s + CLEAN_SLOW_S:
            return
        self._cleaned_s = now_s
        has_backlog = self._agenda.backlog(self._clock.now_ms()) > self._batch_size
        await self._queue.flush(age_s=CLEAN_LATER_S if has_backlog else 0.0)
