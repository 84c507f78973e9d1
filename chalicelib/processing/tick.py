"""The tick: a processor that lives as long as one invocation of the scheduled function."""

import asyncio
import faulthandler
import sys
from collections.abc import Callable

from chalicelib.clock import Clock, SystemClock
from chalicelib.config import Settings
from chalicelib.output import Lines, Outlet
from chalicelib.processing.context import Context
from chalicelib.processing.embedded_metrics import EmbeddedMetrics
from chalicelib.processing.ledger import Record, both, no_record
from chalicelib.processing.processor import Grace, Processor
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.clock import StoreClock

LEAVE_BEFORE_S = 10.0
"""It leaves this long before the function's deadline, and drains."""
HAND_OVER_S = 1.5
"""It goes on claiming for as long as the others may take to see that it has left."""
SPARE_S = 1.0
"""So much of the time is not planned for."""
LOOK_INTERVAL_S = 0.1


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
    record: Record = no_record,
    *,
    tells_metrics: bool = False,
) -> dict[str, int]:
    """Process tasks and sweep until 10 s before the deadline; returns what was counted.

    remaining_ms: milliseconds left until the function's deadline. tells_metrics: whether the log
    gets lines for CloudWatch.
    """
    settings, clock = settings or Settings.from_env(), StoreClock.over(clock or SystemClock())
    if not tells_metrics:
        return asyncio.run(_run(remaining_ms, settings, clock, record))
    metrics = EmbeddedMetrics(clock)
    try:
        return asyncio.run(_run(remaining_ms, settings, clock, both(record, metrics)))
    finally:
        metrics.write()


async def _run(
    remaining_ms: Callable[[], float], settings: Settings, clock: Clock, record: Record
) -> dict[str, int]:
    queue = AlternatorTaskQueue.open(settings, clock)
    watchdog = FaultHandlerWatchdog(clock)
    lines = Lines(Outlet(1, clock), clock)
    context = Context.of(settings, queue, clock, lines, record)
    processor = Processor(
        context,
        watchdog,
        kind="tick",
        grace=lambda: _grace(remaining_ms() / 1000),
        sweeps_always=True,
    )
    stop = asyncio.Event()
    looking = asyncio.create_task(_stop_in_time(remaining_ms, stop, lines))
    try:
        await processor.run(stop)
    finally:
        looking.cancel()
        watchdog.disarm()
        await queue.close()
        lines.close()
    return dict(context.counts)


async def _stop_in_time(
    remaining_ms: Callable[[], float], stop: asyncio.Event, lines: Lines
) -> None:
    """The deadline may come nearer meanwhile, as it does when a local tick is told to end."""
    while (left_s := remaining_ms() / 1000 - LEAVE_BEFORE_S) > 0:
        lines.look()
        await asyncio.sleep(min(LOOK_INTERVAL_S, left_s))
    stop.set()


def _grace(remaining_s: float) -> Grace:
    """With the usual time left, hand over; with less, drain at once."""
    hand_over_s = HAND_OVER_S if remaining_s > LEAVE_BEFORE_S - HAND_OVER_S else 0.0
    return Grace(hand_over_s, max(0.0, remaining_s - hand_over_s - SPARE_S))
