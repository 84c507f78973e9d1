"""When a processor sweeps: each minute one of the fleet does, and every tick."""

import asyncio
import logging
from functools import partial

from chalicelib.processing.context import Context
from chalicelib.processing.loops import Loops
from chalicelib.processing.membership import Membership
from chalicelib.store import ownership

log = logging.getLogger(__name__)

SWEEP_INTERVAL_MS = 60_000
SWEEP_SEGMENTS = 60
"""One a minute: every task is seen once an hour."""
LOOK_INTERVAL_S = 1.0


class SweepTimer:
    """is_always: sweep each minute, and at the start, whoever else does."""

    def __init__(self, context: Context, membership: Membership, *, is_always: bool) -> None:
        self._queue = context.queue
        self._clock = context.clock
        self._counts = context.counts
        self._membership = membership
        self._is_always = is_always

    async def run(self, loops: Loops) -> None:
        minute = self._minute() - (1 if self._is_always else 0)
        while True:
            if self._minute() != minute:
                minute = self._minute()
                if self._is_always or self._is_mine(minute):
                    await loops.survive(partial(self._sweep, minute))
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _minute(self) -> int:
        return self._clock.now_ms() // SWEEP_INTERVAL_MS

    def _is_mine(self, minute: int) -> bool:
        return ownership.owner(f"sweep {minute}", self._membership.live()) == self._membership.me

    async def _sweep(self, minute: int) -> None:
        now_ms = self._clock.now_ms()
        changed = await self._queue.sweep_overdue(now_ms=now_ms)
        segment = minute % SWEEP_SEGMENTS
        changed += await self._queue.sweep_segment(segment, SWEEP_SEGMENTS, now_ms=now_ms)
        self._counts["swept"] += changed
        if changed:
            log.info("swept %d rows", changed, extra={"action": "swept", "rows": changed})
