"""One process of the worker: a processor until it is told to drain."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from mmap import mmap
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from chalicelib import log as logs
from chalicelib.clock import Clock, SystemClock, pause
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, StoreUnavailable
from chalicelib.output import Lines, Outlet
from chalicelib.processing.context import Context
from chalicelib.processing.held_claims import HeldClaims
from chalicelib.processing.isolation import IsolatedProcess
from chalicelib.processing.ledger import Ledger, Record, both, no_record
from chalicelib.processing.processor import Processor
from chalicelib.store.alternator import outcome, tables
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.clock import StoreClock
from chalicelib.wakeups.listener import Listener
from worker.ending import die_with, ending_signals
from worker.metrics import Metrics

log = logging.getLogger(__name__)

Pipe: TypeAlias = "Connection[Any, Any]"

STORE_WAIT_S = 0.5
STORE_PATIENCE_S = 3.0
TURN_NOTED_EVERY_S = 1.0
COLLECT_AFTER = 10_000
"""Net new objects before the garbage collector looks for cycles among them."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a process shares with its supervisor, and with those whose place it takes.

    kill_at_s, turned_s: monotonic times: when to kill it; when its event loop last turned. claims:
    memory for HeldClaims. family: an end of a pipe, held open by the process and by those that it
    starts for handlers. dead: the other ends of such pipes of earlier processes. metrics: the place
    under which the process counts for Prometheus; None: it does not.
    """

    kill_at_s: Any
    turned_s: Any
    claims: mmap
    family: Pipe
    dead: Sequence[Pipe] = ()
    metrics: int | None = None

    def arm(self, kill_at_s: float) -> None:
        """See Watchdog: the supervisor kills this process then."""
        self.kill_at_s.value = kill_at_s

    async def are_gone(self) -> None:
        """Return once nothing is left of the earlier processes, nor of what they started."""
        loop = asyncio.get_running_loop()
        for pipe in self.dead:
            closed = asyncio.Event()
            loop.add_reader(pipe.fileno(), closed.set)
            try:
                await closed.wait()
            finally:
                loop.remove_reader(pipe.fileno())


def wait_for_store(settings: Settings, clock: Clock, is_stopped: Callable[[], bool]) -> None:
    """Return once the tables are verified and may be written.

    Raises StoreMismatch if they do not fit, InvalidSetting if our credentials are refused.
    """
    told = ""
    with closing(Client.connect(settings, clock, patience_s=STORE_PATIENCE_S)) as client:
        while not is_stopped():
            try:
                tables.verify(client, settings.table_prefix)
                tables.warm_up(client, settings.table_prefix)
                return
            except StoreUnavailable as error:
                if outcome.is_refusal(error):
                    raise InvalidSetting(str(error)) from error
                if told != (told := str(error)):
                    extra = {"action": "store_waited"}
                    log.warning("waiting for the store: %s", error, extra=extra)
                pause(STORE_WAIT_S)


def main(settings: Settings, shared: Shared, ledger: str | None) -> None:
    """Runs in a forked process; ends with the supervisor, however that ends."""
    # The supervisor's handlers were inherited; until ours stand, a signal simply ends us.
    for number in ending_signals():
        signal.signal(number, signal.SIG_DFL)
    die_with()
    _collect_seldom()
    clock = StoreClock(SystemClock())
    stdout = os.dup(1)
    # Whatever a handler or a library prints must not get between the lines.
    os.dup2(2, 1)
    # Those of the supervisor write by a thread that did not come along.
    logging.getLogger().handlers.clear()
    sys.stdout = logs.set_up_apart(clock).stream
    try:
        record: Record = Ledger(ledger, clock) if ledger else no_record
        metrics = Metrics(shared.metrics) if shared.metrics is not None else None
        record = both(record, metrics) if metrics else record
        lines = Lines(Outlet(stdout, clock), clock)
        context_on = partial(Context.of, settings, clock=clock, lines=lines, record=record)
        try:
            asyncio.run(_run(settings, shared, clock, context_on, lines, metrics))
        finally:
            lines.close()
    finally:
        logging.shutdown()


async def _run(
    settings: Settings,
    shared: Shared,
    clock: Clock,
    context_on: Callable[..., Context],
    lines: Lines,
    metrics: Metrics | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stop.set)
    held = HeldClaims(memoryview(shared.claims), clock.monotonic_s())
    observe = metrics.observe_request if metrics else None
    queue = AlternatorTaskQueue.open(settings, clock, observe)
    isolate = partial(IsolatedProcess.start, family=shared.family)
    context = replace(
        context_on(queue, listener=await Listener.open(settings)), isolate=isolate, held=held
    )
    processor = Processor(context, shared, kind="worker", are_gone=shared.are_gone)
    sample = (lambda: metrics.sample(processor.condition())) if metrics else _nothing
    noting = asyncio.create_task(_note_turns(shared.turned_s, clock, lines, sample))
    try:
        await processor.run(stop)
    finally:
        noting.cancel()
        await queue.close()
    log.info("drained", extra={"action": "drained", "counts": dict(context.counts)})


def _nothing() -> None:
    """Nobody wants to know."""


async def _note_turns(
    turned_s: Any, clock: Clock, lines: Lines, sample: Callable[[], None]
) -> None:
    """Tell the supervisor that this event loop is not blocked."""
    while True:
        turned_s.value = clock.monotonic_s()
        lines.look()
        logs.look()
        sample()
        await asyncio.sleep(TURN_NOTED_EVERY_S)


def _collect_seldom() -> None:
    """What was imported stays, and a task leaves no cycle behind: to search both again and again
    while a burst comes and goes costs 7 % of this process's time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
