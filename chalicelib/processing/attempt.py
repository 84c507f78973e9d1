"""One attempt at one task: claim, run with a deadline, settle, print.

All deadlines run from the claim. The store's conditional writes alone decide who holds a task and
whose result counts; a line is printed after its result is committed, by who committed it.
"""

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Self

from chalicelib.attempts import KILL_AFTER_S, LEASE_MS, SETTLE_WITHIN_S, START_WITHIN_S, TIMEOUT_S
from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.output import Lines
from chalicelib.processing.handling import CANCELLED, Failure, called, tried
from chalicelib.processing.isolation import HandlerDied, Isolated, IsolatedProcess
from chalicelib.processing.ledger import Record, no_record
from chalicelib.store.contract import Hint, Refused, TaskQueue
from chalicelib.task import FINISHED, LOST_LEASES_MAX, Task, TaskState
from chalicelib.task_types import HANDLERS, Handler, Run

log = logging.getLogger(__name__)

ABSENT_MS = 60_000
"""A hint this much past its time whose task does not exist, or failed before that time, is deleted;
before, what creates it or runs it again may still be under way."""
NO_PROCESS_MS = 1_000
"""A task for whose handler no process could be started is given back for so long."""
HELD_BACK_MS = 50
"""A claim that the store had no time for is looked at again after this."""


@dataclass(frozen=True, slots=True)
class Again:
    """The hint must be looked at again, at this time."""

    at_ms: int


@dataclass(kw_only=True)
class Attempts:
    """Makes attempts for one processor, any number side by side.

    emit: prints one line. is_held_up: whether lines do not leave; then no task is claimed. isolate:
    makes a process of its own for a handler. record: takes note of what happens.
    stopping: set when no further handler may start. kill_at_s: for each task whose handler runs,
    the oldest claim first, the monotonic time at which somebody outside must end this process.
    """

    queue: TaskQueue
    clock: Clock
    rng: Random
    processor: str
    emit: Callable[[str], None]
    bar_url: str
    handlers: Mapping[str, Handler] = field(default_factory=lambda: HANDLERS)
    isolate: Callable[[Run], Awaitable[Isolated]] = IsolatedProcess.start
    is_held_up: Callable[[], bool] = lambda: False
    record: Record = no_record
    stopping: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    kill_at_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: Settings,
        queue: TaskQueue,
        clock: Clock,
        lines: Lines,
        record: Record = no_record,
    ) -> Self:
        """For a new processor of its own."""
        return cls(
            queue=queue,
            clock=clock,
            rng=Random(),
            processor=str(uuid.uuid4()),
            emit=lines,
            is_held_up=lines.is_held_up,
            bar_url=settings.bar_url,
            record=record,
        )

    async def make(self, hint: Hint, claimed: Callable[[], None]) -> Again | None:
        """Claim the hint's task and see it through. None: the hint needs no further look.

        claimed: called once the claim is answered, whatever came of it.
        Raises UnreadableTask: then the hint stays where it is.
        """
        claimed_s, claimed_ms = self.clock.monotonic_s(), self.clock.now_ms()
        try:
            answer = await self._claim(hint, claimed_s, claimed_ms)
        except StoreBusy:
            self.counts["held_back"] += 1
            return Again(self.clock.now_ms() + HELD_BACK_MS)
        except StoreUnavailable as error:
            return self._left(hint, claimed_ms, error)
        finally:
            claimed()
        if isinstance(answer, Refused):
            self.counts["refused"] += 1
            return await self.refused(hint, answer.task)
        self.counts["claimed"] += 1
        self.record("claim", answer)
        try:
            return await self._see_through(hint, answer, claimed_s)
        except StoreUnavailable as error:
            return self._left(hint, claimed_ms, error)

    def _left(self, hint: Hint, claimed_ms: int, error: StoreUnavailable) -> Again:
        """What the store left unknown is known once the lease is over."""
        extra = {"action": "left", "task_id": hint.id}
        log.warning("attempt left to its lease: %s", error, extra=extra)
        return Again(claimed_ms + LEASE_MS)

    async def _claim(self, hint: Hint, claimed_s: float, claimed_ms: int) -> Task | Refused:
        return await self.queue.claim(
            hint,
            claim=str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            processor=self.processor,
            now_ms=claimed_ms,
            until_s=claimed_s + START_WITHIN_S,
        )

    async def refused(self, hint: Hint, task: Task | None) -> Again | None:
        """What a hint is worth whose task, as given, cannot be claimed now."""
        now_ms = self.clock.now_ms()
        if task is None or self._may_be_run_again(task, hint):
            if hint.due_at_ms < now_ms - ABSENT_MS:
                await self.queue.forget_hint(hint)
                return None
            # Its create, or what runs it again, is under way: soon at first, then ever less often.
            return Again(now_ms + min(max(now_ms - hint.due_at_ms, 50), 5_000))
        if task.state in FINISHED or task.state is TaskState.DELETED:
            await self.queue.forget_hint(hint)
            await self.queue.forget_open(task)
            return None
        assert task.due_at_ms is not None
        if task.state is TaskState.SCHEDULED and task.due_at_ms != hint.due_at_ms:
            await self.queue.forget_hint(hint)
            return None
        return Again(max(task.due_at_ms, now_ms + 1))

    @staticmethod
    def _may_be_run_again(task: Task, hint: Hint) -> bool:
        """No hint that led to a task before it failed lies behind the failure."""
        is_failed = task.state is TaskState.FAILED and task.finished_ts_ms is not None
        return is_failed and hint.due_at_ms > (task.finished_ts_ms or 0)

    async def _see_through(self, hint: Hint, held: Task, claimed_s: float) -> Again | None:
        settled = await self._outcome(hint, held, claimed_s)
        if not await self._settle(held, settled, claimed_s + SETTLE_WITHIN_S):
            self.counts["lease_lost"] += 1
            self._log(logging.WARNING, "lease_lost", "lost the lease before settling", held)
            return Again(self.clock.now_ms() + 1_000)
        if settled.state is TaskState.COMPLETED and settled.result is not None:
            self.emit(settled.result)
            self.record("print", settled, line=settled.result)
        await self._clean_up(hint, settled)
        self.counts[settled.state] += 1
        if settled.state is not TaskState.COMPLETED:
            text = f"attempt {held.attempt} did not complete: {settled.error}"
            self._log(logging.INFO, f"task_{settled.state}", text, settled)
        return None

    async def _settle(self, held: Task, settled: Task, until_s: float) -> bool:
        record = partial(
            self.record, "settle", settled, state=settled.state, began_s=self.clock.monotonic_s()
        )
        try:
            committed = await self.queue.settle(held, settled, until_s=until_s)
        except StoreUnavailable:
            record(committed=None)
            raise
        record(committed=committed)
        return committed

    async def _clean_up(self, hint: Hint, settled: Task) -> None:
        if settled.due_at_ms != hint.due_at_ms:
            await self.queue.forget_hint(hint)
        if settled.state in FINISHED:
            await self.queue.forget_open(settled)

    async def _outcome(self, hint: Hint, held: Task, claimed_s: float) -> Task:
        """The task as it is to be settled: gives back, buries, or runs the handler."""
        start_until_s = claimed_s + START_WITHIN_S
        await self._until_due(hint, start_until_s)
        if self.stopping or self.clock.monotonic_s() >= start_until_s:
            return self._returned(hint, held)
        lost = held.leases_lost
        if lost >= LOST_LEASES_MAX:
            error = f"LeasesLost: {lost} attempts were lost with their processors"
            return held.failed(error, now_ms=self.clock.now_ms())
        rests_until_ms = held.rests_until_ms
        if rests_until_ms is not None and self.clock.now_ms() < rests_until_ms:
            return self._returned(hint, held, rests_until_ms)
        run = Run(task=held, rng=self.rng, bar_url=self.bar_url)
        if not lost:
            handler = partial(called, self.handlers[held.type], run)
            return await self._run(hint, held, handler, claimed_s)
        try:
            async with asyncio.timeout(start_until_s - self.clock.monotonic_s()):
                place = await self.isolate(run)
        except TimeoutError:
            return self._returned(hint, held)
        except (OSError, EOFError, HandlerDied) as error:
            self._log(logging.WARNING, "no_process", f"no process for the handler: {error!r}", held)
            return self._returned(hint, held, self.clock.now_ms() + NO_PROCESS_MS)
        try:
            return await self._run(hint, held, place.line, claimed_s)
        finally:
            await place.end()

    async def _until_due(self, hint: Hint, until_s: float) -> None:
        """The answers since the claim may have told that it is not as late as was believed."""
        while (early_ms := hint.due_at_ms - self.clock.now_ms()) > 0:
            if (left_s := until_s - self.clock.monotonic_s()) <= 0:
                return
            await asyncio.sleep(min(early_ms / 1000, left_s))

    def _returned(self, hint: Hint, held: Task, not_before_ms: int | None = None) -> Task:
        return held.returned(
            now_ms=self.clock.now_ms(), hint_due_ms=hint.due_at_ms, not_before_ms=not_before_ms
        )

    async def _run(
        self, hint: Hint, held: Task, handler: Callable[[], Awaitable[str]], claimed_s: float
    ) -> Task:
        """Run the handler now; what comes of it, as the task is to be settled."""
        started = held.started(self.clock.now_ms())
        self.kill_at_s[held.id] = claimed_s + KILL_AFTER_S
        self.record("start", started)
        try:
            outcome = await self._tried(started, handler, claimed_s + START_WITHIN_S)
        finally:
            del self.kill_at_s[held.id]
        if outcome is None:
            return self._returned(hint, held)
        now_ms = self.clock.now_ms()
        if isinstance(outcome, Failure):
            return started.failed_once(outcome.text, now_ms=now_ms, jitter=self.rng.random)
        return started.completed(outcome, now_ms=now_ms)

    async def _tried(
        self, task: Task, handler: Callable[[], Awaitable[str]], start_until_s: float
    ) -> str | Failure | None:
        """What came of the handler within the timeout; None if it was too late to start it.

        It has an asyncio task of its own, which it may cancel as it likes, now or later.
        """
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        started_s = self.clock.monotonic_s()
        running = loop.create_task(self._tried_in_time(handler, start_until_s))
        timer = loop.call_later(TIMEOUT_S, running.cancel)
        outcome: str | Failure | None
        try:
            outcome = await running
        except asyncio.CancelledError:
            outcome = CANCELLED
        finally:
            timer.cancel()
        if isinstance(outcome, Failure):
            if me.cancelling() and issubclass(outcome.cause, asyncio.CancelledError):
                raise asyncio.CancelledError
            if not issubclass(outcome.cause, _OF_TIME):
                return outcome
        if outcome is None or self.clock.monotonic_s() < started_s + TIMEOUT_S:
            return outcome
        if isinstance(outcome, Failure):
            self.record("kill", task)
        return _TIMED_OUT

    async def _tried_in_time(
        self, handler: Callable[[], Awaitable[str]], start_until_s: float
    ) -> str | Failure | None:
        # This process may have stood still since the task was created.
        return None if self.clock.monotonic_s() >= start_until_s else await tried(handler)

    def _log(self, level: int, action: str, text: str, task: Task) -> None:
        extra = {"action": action, "task_id": task.id, "attempt": task.attempt}
        log.log(level, "%s", text, extra=extra)


_TIMED_OUT = Failure(f"Timeout: not finished within {TIMEOUT_S:g} s", TimeoutError)
_OF_TIME = (asyncio.CancelledError, TimeoutError)
"""What a handler ends with that was cancelled, or whose own limit was as long."""
