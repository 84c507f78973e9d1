"""The places of a processor: an attempt starts in each, at the instant of its hint."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial

from chalicelib.attempts import LEASE_MS
from chalicelib.errors import UnreadableTask
from chalicelib.processing.agenda import Agenda
from chalicelib.processing.attempt import HELD_BACK_MS, Attempts
from chalicelib.processing.context import Context
from chalicelib.processing.execution import Execution
from chalicelib.processing.obsolete import Again
from chalicelib.store.contract import Hint
from chalicelib.throttle import OncePerSubject

log = logging.getLogger(__name__)

FORGET_AFTER_S = 30.0
"""A hint that was dealt with is not taken up again for so long: its deletion is under way. One that
is not for this version is left alone for as long."""
AGAIN_MS = 1_000
"""What went wrong for no known reason is looked at again after this."""


class Runner:
    """running: the attempts under way, by task id. claims: how many were answered so far."""

    def __init__(
        self,
        context: Context,
        agenda: Agenda,
        execution: Execution,
        hand_over: Callable[[Hint], None] = lambda hint: None,
        is_own: Callable[[int], bool] = lambda shard: True,
    ) -> None:
        """hand_over: tells others of a task that is due soon, when this one claims no more.
        is_own: whether this processor owns a shard."""
        self.running: dict[str, asyncio.Task[None]] = {}
        self.claims = 0
        self._context = context
        self._clock = context.clock
        self._agenda = agenda
        self._execution = execution
        self._hand_over = hand_over
        self._is_own = is_own
        self._attempts = Attempts(context, execution, self._note_scheduled)
        self._scheduled: dict[str, Hint] = {}
        self._claiming: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._reported = OncePerSubject()

    @property
    def is_busy(self) -> bool:
        return bool(self.running or self._agenda)

    def offer(self, hint: Hint, at_ms: int | None = None) -> None:
        """Put a hint into the agenda, unless it is known, or not for this version.

        at_ms: when to look at its task, if not at the hint's own time.
        """
        if self._agenda.knows(hint):
            return
        if hint.type not in self._context.handlers:
            self._close(hint)
            self._report(f"type {hint.type!r}", "left alone: no handler for this task type")
            return
        self._put(hint, hint.due_at_ms if at_ms is None else at_ms)

    def take_over(self, hints: Iterable[Hint]) -> None:
        """Claim the tasks of these hints before all others: a dead process held them."""
        for hint in hints:
            self._agenda.put_first(hint)
        self.fill()

    def fill(self) -> None:
        """Start an attempt for each hint whose instant has come while there are free places.

        Types take turns. What the store has no room for waits in the agenda, all of it together.
        """
        if self._execution.stopping or self._agenda.free <= 0:
            return
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        while (type := self._agenda.turn(now_ms, now_s)) is not None:
            if not self._may_claim():
                self._fill_in(HELD_BACK_MS / 1000)
                return
            hint = self._agenda.take(type)
            if hint.id in self.running:
                self._agenda.done(hint)
                self._put(hint, now_ms + AGAIN_MS)
            else:
                self._claiming.add(hint.id)
                self.running[hint.id] = asyncio.create_task(self._attempt(hint))
        next_ms = self._agenda.next_ms(now_ms)
        if next_ms < math.inf:
            self._fill_in(max(0.001, (next_ms - now_ms) / 1000))

    def waiting(self) -> int:
        """How many hints are ready although there are places for them."""
        now_ms = self._clock.now_ms()
        has_turn = self._agenda.turn(now_ms, self._clock.monotonic_s()) is not None
        return self._agenda.backlog(now_ms) if has_turn else 0

    async def drain(self, drain_s: float) -> None:
        """Claim no more; what still runs at the end is left to its lease."""
        self._execution.stopping = True
        self._stop_timer()
        self._agenda.drop(lambda hint: True)
        if self.running:
            await asyncio.wait(list(self.running.values()), timeout=drain_s)
        for left in list(self.running.values()):
            left.cancel()

    def _may_claim(self) -> bool:
        if self._context.is_held_up():
            return False
        claiming = len(self._claiming)
        return self._context.queue.may_claim(claiming, len(self.running) - claiming)

    def _fill_in(self, seconds: float) -> None:
        """A timer that ends before that will do: then `fill` sets another one."""
        loop = asyncio.get_running_loop()
        at_s = loop.time() + seconds
        if self._timer is not None and self._timer.when() <= at_s:
            return
        self._stop_timer()
        self._timer = loop.call_at(at_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.fill()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _claimed(self, hint: Hint, is_refused: bool) -> None:
        """One claim less waits for its answer: there may be room for another.

        Who was quicker in a shard that is not this processor's own sees to its other hints too.
        """
        self._claiming.discard(hint.id)
        self.claims += 1
        if is_refused and not self._is_own(hint.shard):
            self._agenda.drop(lambda other: other.shard == hint.shard)
        if self._agenda:
            self.fill()

    async def _attempt(self, hint: Hint) -> None:
        try:
            again = await self._made(hint)
        except asyncio.CancelledError:
            self._put(hint, self._clock.now_ms() + LEASE_MS)
            raise
        finally:
            del self.running[hint.id]
            self._claiming.discard(hint.id)
            self._agenda.done(hint)
            self._take_up(hint.id)
        if again is None:
            self._close(hint)
        else:
            self._put(hint, again.at_ms)
        self.fill()

    def _note_scheduled(self, hint: Hint) -> None:
        """It can be taken up once this attempt is over."""
        self._scheduled[hint.id] = hint

    def _take_up(self, task_id: str) -> None:
        """A task that was scheduled again for soon need not wait until a poll finds it."""
        hint = self._scheduled.pop(task_id, None)
        until_ms = self._clock.now_ms() + self._context.settings.lookahead_ms
        if hint is None or hint.due_at_ms > until_ms:
            return
        if self._execution.stopping:
            self._hand_over(hint)
        else:
            self.offer(hint)

    async def _made(self, hint: Hint) -> Again | None:
        """None: the hint needs no further look for now."""
        try:
            return await self._attempts.make(hint, partial(self._claimed, hint))
        except UnreadableTask as error:
            self._report(hint.id, f"left alone: {error}")
            return None
        except Exception:
            extra = {"action": "attempt_error", "task_id": hint.id}
            log.exception("an attempt went wrong", extra=extra)
            return Again(self._clock.now_ms() + AGAIN_MS)

    def _put(self, hint: Hint, at_ms: int) -> None:
        self._agenda.put(hint, at_ms, self._clock.monotonic_s())

    def _close(self, hint: Hint) -> None:
        self._agenda.close(hint, self._clock.monotonic_s() + FORGET_AFTER_S)

    def _report(self, about: str, text: str) -> None:
        if self._reported.admits(about):
            log.warning("%s: %s", about, text, extra={"action": "left_alone"})
