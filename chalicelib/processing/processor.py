"""The processor: finds due tasks, claims each at its instant, and runs many side by side.

Both the tick and each process of the worker are one. A hint goes from `own_shards` (or from
`lookout`, if another left it overdue) into the `agenda`; the `runner` gives it a place at its
instant, and `attempt` sees it through.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from chalicelib.attempts import KILL_AFTER_S
from chalicelib.processing.agenda import Agenda
from chalicelib.processing.cleaning import Cleaning
from chalicelib.processing.context import Context
from chalicelib.processing.execution import Execution
from chalicelib.processing.inbox import Inbox
from chalicelib.processing.ledger import both
from chalicelib.processing.lookout import LookOut
from chalicelib.processing.loops import Loops
from chalicelib.processing.membership import HEARTBEAT_INTERVAL_S, Membership
from chalicelib.processing.own_shards import OwnShards
from chalicelib.processing.runner import Runner
from chalicelib.processing.statistics_writer import WRITE_INTERVAL_S, StatisticsWriter
from chalicelib.processing.store_watch import StoreWatch
from chalicelib.processing.sweep_timer import SweepTimer
from chalicelib.store.contract import Hint

log = logging.getLogger(__name__)

LOOK_OUT_INTERVAL_S = 1.0
SHARDS_INTERVAL_S = 30.0
CLEAN_INTERVAL_S = 0.5
ARM_INTERVAL_S = 0.25
LEAVE_S = 0.5
CLEAN_UP_S = 2.0
"""A store that does not answer must not keep a processor from ending: it has so long to take its
heartbeat away; and for deletions and statistics that still wait, if no task took the time of the
drain."""


class Watchdog(Protocol):
    """Ends this process from outside."""

    def arm(self, kill_at_s: float) -> None:
        """Unless armed anew before it, end the process at this time of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Grace:
    """hand_over_s: how long to go on claiming after leaving the fleet, until others take over.

    drain_s: how long running tasks may take after that.
    """

    hand_over_s: float = 0.0
    drain_s: float = 6.0


async def at_once() -> None:
    """There is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How a processor is now. backlog_age_s: for how long its oldest ready hint has waited.

    heartbeat_ms: see Membership. counts: see Context.
    """

    places: int
    taken: int
    backlog_age_s: float
    heartbeat_ms: int
    counts: Mapping[str, int]


class LoopEnded(Exception):
    """A loop of a processor ended before it was told to stop."""


class Processor:
    """Runs from `run` until `stop` is set; then leaves the fleet and drains.

    kind: worker or tick. grace: asked when it is told to stop. sweeps_always: see SweepTimer.
    are_gone: awaited before anything is taken over: all that the dead processes of this place had
    started has ended.
    """

    def __init__(
        self,
        context: Context,
        watchdog: Watchdog,
        *,
        kind: str,
        grace: Callable[[], Grace] = Grace,
        sweeps_always: bool = False,
        are_gone: Callable[[], Awaitable[None]] = at_once,
    ) -> None:
        self.agenda = agenda = Agenda(context.settings.batch_size)
        self._statistics = StatisticsWriter(context.id, context.queue, context.clock)
        context = replace(context, record=both(context.record, self._statistics))
        self.context = context
        self._clock = context.clock
        self._watchdog = watchdog
        self._grace = grace
        self._are_gone = are_gone
        self._execution = Execution(context)
        self._loops = Loops(context.clock, context.rng)
        self._watch = watch = StoreWatch(context.clock, context.record)
        self._membership = membership = Membership(context, watch, kind=kind)
        self.runner = runner = Runner(
            context, agenda, self._execution, self._hand_over, membership.owns
        )
        self._inbox = Inbox(context, agenda, runner)
        self._own_shards = OwnShards(context, membership, agenda, runner, watch)
        self._lookout = LookOut(context, membership, agenda, runner, watch)
        self._cleaning = Cleaning(context, agenda, watch)
        self._sweep_timer = SweepTimer(context, membership, is_always=sweeps_always)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when all attempts have ended, or their grace has.

        Raises LoopEnded if it cannot go on: this process must end.
        """
        start = self._loops.start
        arming = start(ARM_INTERVAL_S, self._arm)
        taking_over = await self._begin()
        heartbeat = start(HEARTBEAT_INTERVAL_S, self._heartbeat)
        finding = [
            heartbeat,
            start(self.context.settings.poll_interval_s, self._own_shards.poll),
            start(LOOK_OUT_INTERVAL_S, self._lookout.look),
            start(SHARDS_INTERVAL_S, self._membership.read_shards),
            asyncio.create_task(self._sweep_timer.run(self._loops)),
        ]
        cleaning = start(CLEAN_INTERVAL_S, self._cleaning.step)
        counting = start(WRITE_INTERVAL_S, self._statistics.write)
        await self._until(stop, {*finding, cleaning, counting, arming})
        grace = self._grace()
        heartbeat.cancel()
        leaving = asyncio.create_task(self._loops.survive(self._membership.leave))
        await asyncio.sleep(grace.hand_over_s)
        ends_s = self._clock.monotonic_s() + grace.drain_s
        _cancel(taking_over, *finding)
        self._inbox.close()
        await self.runner.drain(grace.drain_s)
        _cancel(cleaning, counting, arming)
        await self._last_writes(leaving, ends_s - self._clock.monotonic_s())

    def condition(self) -> Condition:
        """How it is now."""
        waited_ms = self._clock.now_ms() - self.agenda.first_ms()
        return Condition(
            places=self.context.settings.batch_size,
            taken=len(self.runner.running),
            backlog_age_s=max(0.0, waited_ms / 1000),
            heartbeat_ms=self._membership.heartbeat_ms,
            counts=self.context.counts,
        )

    async def _until(self, stop: asyncio.Event, loops: Set[asyncio.Task[None]]) -> None:
        """A loop ends only if a handler cancelled it; without it nothing might be claimed."""
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stop.is_set():
            log.error("a loop was cancelled: this process ends", extra={"action": "loop_ended"})
            raise LoopEnded("a handler cancelled what was not its own")

    async def _last_writes(self, leaving: asyncio.Task[None], left_s: float) -> None:
        steps = (self.context.queue.flush, self._statistics.write_now)
        lasts = {leaving, *(asyncio.create_task(self._loops.survive(step)) for step in steps)}
        await asyncio.wait(lasts, timeout=max(LEAVE_S, min(CLEAN_UP_S, left_s)))
        _cancel(*lasts)

    async def _begin(self) -> asyncio.Task[None]:
        """The first heartbeat, and beside it the takeover: that goes on, and is returned."""
        self._inbox.open()
        await self._succeed()
        taking_over = asyncio.create_task(self._loops.survive(self._take_over))
        await self._loops.survive(self._heartbeat)
        return taking_over

    async def _succeed(self) -> None:
        """Whose place this is has died: its shards need not wait until that is believed."""
        held = self.context.held
        if held.predecessor is not None:
            leave = partial(self.context.queue.leave, held.predecessor)
            leaving = asyncio.create_task(self._loops.survive(leave))
            await asyncio.wait({leaving}, timeout=LEAVE_S)
            leaving.cancel()
        held.sign(self.context.id)

    async def _take_over(self) -> None:
        """What the dead processes of this place held, before any hint is read."""
        held = self.context.held
        if not held.left:
            return
        await self._are_gone()
        hints = held.take_over()
        extra = {"action": "taken_over", "tasks": len(hints)}
        log.info("claiming %d tasks of a dead process", len(hints), extra=extra)
        self.runner.take_over(hints)

    async def _heartbeat(self) -> None:
        self._watch.look(self.context.queue.pressure(), self.runner.waiting())
        held_back_s = self._watch.held_back_s(self.agenda.first_ms(), self._clock.now_ms())
        taken = len(self.runner.running)
        await self._membership.step(
            is_busy=self.runner.is_busy, held_back_s=held_back_s, taken=taken
        )

    def _hand_over(self, hint: Hint) -> None:
        if self.context.sender is not None:
            self.context.sender.send([hint], self._membership.others())

    async def _arm(self) -> None:
        oldest_s = next(iter(self._execution.kill_at_s.values()), None)
        self._watchdog.arm(oldest_s or self._clock.monotonic_s() + KILL_AFTER_S)


def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
