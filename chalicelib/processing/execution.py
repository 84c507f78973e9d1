"""What becomes of a claimed task: its handler runs with a deadline, or it is released or failed.

All deadlines run from the claim.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from chalicelib.attempts import KILL_AFTER_S, START_WITHIN_S, TIMEOUT_S
from chalicelib.processing.context import Context
from chalicelib.processing.handling import CANCELLED, Failure, called, tried
from chalicelib.processing.isolation import HandlerDied
from chalicelib.store.contract import Hint
from chalicelib.task import LOST_LEASES_MAX, Task
from chalicelib.task_types import Run

log = logging.getLogger(__name__)

NO_PROCESS_MS = 1_000
"""A task for whose handler no process could be started is released for so long."""
TIMED_OUT = Failure(f"Timeout: not finished within {TIMEOUT_S:g} s", TimeoutError)
OF_TIME = (asyncio.CancelledError, TimeoutError)
"""What a handler ends with that was cancelled, or whose own limit was as long."""

Handling = Callable[[], Awaitable[str]]


class Execution:
    """stopping: set when no further handler may start. kill_at_s: for each task whose handler runs,
    the oldest claim first, the monotonic time at which somebody outside must end this process.
    """

    def __init__(self, context: Context) -> None:
        self.stopping = False
        self.kill_at_s: dict[str, float] = {}
        self._context = context
        self._clock = context.clock

    async def outcome(self, hint: Hint, held: Task, claimed_s: float) -> Task:
        """The task as it is to be settled."""
        start_until_s = claimed_s + START_WITHIN_S
        if hint.due_at_ms > self._clock.now_ms():
            await self._until_due(hint, start_until_s)
        if self.stopping or self._clock.monotonic_s() >= start_until_s:
            return self._released(hint, held)
        if not held.leases_lost:
            run = self._run_of(held)
            handler = partial(called, self._context.handlers[held.type], run)
            return await self._run(hint, held, handler, claimed_s)
        if held.leases_lost >= LOST_LEASES_MAX:
            error = f"LeasesLost: {held.leases_lost} attempts were lost with their processors"
            return held.failed(error, now_ms=self._clock.now_ms())
        rests_until_ms = held.rests_until_ms
        if rests_until_ms is not None and self._clock.now_ms() < rests_until_ms:
            return self._released(hint, held, rests_until_ms)
        return await self._run_isolated(hint, held, claimed_s)

    async def _until_due(self, hint: Hint, until_s: float) -> None:
        """The answers since the claim may have told that it is not as late as was believed."""
        while (early_ms := hint.due_at_ms - self._clock.now_ms()) > 0:
            if (left_s := until_s - self._clock.monotonic_s()) <= 0:
                return
            await asyncio.sleep(min(early_ms / 1000, left_s))

    def _released(self, hint: Hint, held: Task, not_before_ms: int | None = None) -> Task:
        return held.released(
            now_ms=self._clock.now_ms(), hint_due_ms=hint.due_at_ms, not_before_ms=not_before_ms
        )

    def _run_of(self, task: Task) -> Run:
        context = self._context
        return Run(task=task, rng=context.rng, bar_url=context.settings.bar_url)

    async def _run_isolated(self, hint: Hint, held: Task, claimed_s: float) -> Task:
        """In a process of its own: the one before may have died of this handler."""
        try:
            async with asyncio.timeout(claimed_s + START_WITHIN_S - self._clock.monotonic_s()):
                place = await self._context.isolate(self._run_of(held))
        except TimeoutError:
            return self._released(hint, held)
        except (OSError, EOFError, HandlerDied) as error:
            extra = {"action": "no_process", "task_id": held.id, "attempt": held.attempt}
            log.warning("no process for the handler: %r", error, extra=extra)
            return self._released(hint, held, self._clock.now_ms() + NO_PROCESS_MS)
        try:
            return await self._run(hint, held, place.line, claimed_s)
        finally:
            await place.end()

    async def _run(self, hint: Hint, held: Task, handler: Handling, claimed_s: float) -> Task:
        """Run the handler now; what comes of it, as the task is to be settled."""
        started = held.started(self._clock.now_ms())
        self.kill_at_s[held.id] = claimed_s + KILL_AFTER_S
        self._context.record("start", started)
        try:
            outcome = await self._tried(started, handler, claimed_s + START_WITHIN_S)
        finally:
            del self.kill_at_s[held.id]
        if outcome is None:
            return self._released(hint, held)
        now_ms = self._clock.now_ms()
        if isinstance(outcome, Failure):
            jitter = self._context.rng.random
            return started.failed_once(outcome.text, now_ms=now_ms, jitter=jitter)
        return started.completed(outcome, now_ms=now_ms)

    async def _tried(
        self, task: Task, handler: Handling, start_until_s: float
    ) -> str | Failure | None:
        """What came of the handler within the timeout; None if it was too late to start it.

        It has an asyncio task of its own, which it may cancel as it likes, now or later.
        """
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        started_s = self._clock.monotonic_s()
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
            if not issubclass(outcome.cause, OF_TIME):
                return outcome
        if outcome is None or self._clock.monotonic_s() < started_s + TIMEOUT_S:
            return outcome
        if isinstance(outcome, Failure):
            self._context.record("kill", task)
        return TIMED_OUT

    async def _tried_in_time(self, handler: Handling, start_until_s: float) -> str | Failure | None:
        # This process may have stood still since the task was created.
        return None if self._clock.monotonic_s() >= start_until_s else await tried(handler)
