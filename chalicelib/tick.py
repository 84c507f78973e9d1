"""The tick: a processor that lives as long as one invocation of the scheduled function."""

import asyncio
import faulthandler
import sys
from collections.abc import Callable

from chalicelib.alternator.queue import AlternatorTaskQueue
from chalicelib.attempt import Attempts
from chalicelib.clock import Clock, SystemClock
from chalicelib.config import Settings
from chalicelib.handlers import LinePrinter
from chalicelib.processor import Processor

LEAVE_BEFORE_S = 10.0
"""It leaves this long before the function's deadline, and drains."""
LINGER_S = 1.5
"""It goes on claiming for as long as the others may take to see that it has left."""
DRAIN_S = 7.0


class FaultHandlerWatchdog:
    """Ends the process by a C thread that needs no interpreter lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def arm(self, kill_at_s: float) -> None:
        left_s = max(0.001, kill_at_s - self._clock.monotonic_s())
        faulthandler.dump_traceback_later(left_s, exit=True, file=sys.__stderr__ or 2)

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()


def run(
    remaining_ms: Callable[[], float],
    settings: Settings | None = None,
    clock: Clock | None = None,
) -> dict[str, int]:
    """Process tasks and sweep until 10 s before the deadline; returns what was counted.

    remaining_ms: milliseconds left until the function's deadline.
    """
    return asyncio.run(_run(remaining_ms, settings or Settings.from_env(), clock or SystemClock()))


async def _run(
    remaining_ms: Callable[[], float], settings: Settings, clock: Clock
) -> dict[str, int]:
    queue = AlternatorTaskQueue.open(settings, clock)
    watchdog = FaultHandlerWatchdog(clock)
    attempts = Attempts.of(settings, queue, clock, LinePrinter(1))
    processor = Processor(
        attempts,
        settings,
        watchdog,
        kind="tick",
        linger_s=LINGER_S,
        drain_s=DRAIN_S,
        sweeps_always=True,
    )
    stop = asyncio.Event()
    work_s = max(0.0, remaining_ms() / 1000 - LEAVE_BEFORE_S)
    asyncio.get_running_loop().call_later(work_s, stop.set)
    try:
        await processor.run(stop)
    finally:
        watchdog.disarm()
        await queue.close()
    return processor.counts
