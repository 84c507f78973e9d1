"""When a processor sweeps.

Each minute one of the fleet sweeps what is overdue, and every tick does. Each second one of them,
for an hour the same, goes on with the slow sweep.
"""

import asyncio
import logging
from functools import partial

from chalicelib.processing.context import Context
from chalicelib.processing.loops import Loops
from chalicelib.processing.membership import Membership
from chalicelib.store import ownership
from chalicelib.store.clock import agreed_ms

log = logging.getLogger(__name__)

SWEEP_INTERVAL_MS = 60_000
SLOW_OWNER_MS = 3_600_000
"""Who sweeps slowly need not ask others where they are; if it is stuck, another is next."""
LOOK_INTERVAL_S = 1.0
SLOW_START_S = 10.0
"""By then a new processor knows the others: else each of many would sweep at its start."""


class SweepTimer:
    """is_always: sweep what is overdue each minute, and at the start, whoever else does."""

    def __init__(self, context: Context, membership: Membership, *, is_always: bool) -> None:
        self._queue = context.queue
        self._clock = context.clock
        self._counts = context.counts
        self._rate = context.settings.sweep_rate
        self._membership = membership
        self._is_always = is_always

    async def run(self, loops: Loops) -> None:
        await asyncio.gather(self._fast(loops), self._slow(loops))

    async def _fast(self, loops: Loops) -> None:
        minute = self._period(SWEEP_INTERVAL_MS) - (1 if self._is_always else 0)
        while True:
            if self._period(SWEEP_INTERVAL_MS) != minute:
                minute = self._period(SWEEP_INTERVAL_MS)
                if self._is_always or self._is_mine(f"sweep {minute}"):
                    await loops.survive(self._sweep_overdue)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _slow(self, loops: Loops) -> None:
        """A step that takes long holds up the next one, and nothing else."""
        await asyncio.sleep(SLOW_START_S)
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            if self._is_mine(f"slow sweep {self._period(SLOW_OWNER_MS)}"):
                await loops.survive(partial(self._sweep_some, round(self._rate * LOOK_INTERVAL_S)))

    def _period(self, span_ms: int) -> int:
        return self._clock.now_ms() // span_ms

    def _is_mine(self, what: str) -> bool:
        return ownership.owner(what, self._membership.live()) == self._membership.me

    async def _sweep_overdue(self) -> None:
        self._count(await self._queue.sweep_overdue(now_ms=self._clock.now_ms()))

    async def _sweep_some(self, most: int) -> None:
        """By the earlier clock: what goes does not come back."""
        self._count(await self._queue.sweep_some(most, now_ms=agreed_ms(self._clock)))

    def _count(self, changed: int) -> None:
        self._counts["swept"] += changed
        if changed:
            log.info("swept %d rows", changed, extra={"action": "swept", "rows": changed})
