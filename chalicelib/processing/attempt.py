"""One attempt at one task: claim, run with a deadline, settle, print.

The store's conditional writes alone decide who holds a task and whose result counts; a line is
printed after its result is committed, by who committed it.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chalicelib.attempts import LEASE_MS, SETTLE_WITHIN_S, START_WITHIN_S
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.processing import obsolete
from chalicelib.processing.context import Context
from chalicelib.processing.execution import Execution
from chalicelib.processing.obsolete import Again
from chalicelib.request_id import REQUEST_ID
from chalicelib.store.contract import Hint, Refused
from chalicelib.task import FINISHED, Task, TaskState

log = logging.getLogger(__name__)

HELD_BACK_MS = 50
"""What has to wait for the store, or for the output, is looked at again after this."""
LEASE_LOST_MS = 1_000
"""A task whose lease was lost before it could be settled is looked at again after this."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One that is sent. at_s, at_ms: when. entry: where it is noted in HeldClaims."""

    hint: Hint
    token: str
    at_s: float
    at_ms: int
    entry: int | None


class Attempts:
    """Makes attempts for one processor, any number side by side."""

    def __init__(
        self, context: Context, execution: Execution, scheduled: Callable[[Hint], None]
    ) -> None:
        """scheduled: called with the new hint of a task that its settlement scheduled again."""
        self._context = context
        self._execution = execution
        self._scheduled = scheduled
        self._queue = context.queue
        self._clock = context.clock
        self._rng = context.rng
        self._held = context.held
        self._record = context.record
        self._counts = context.counts

    async def make(self, hint: Hint, claimed: Callable[[bool], None]) -> Again | None:
        """Claim the hint's task and see it through. None: the hint needs no further look.

        claimed: called once it is known, or cannot be known now, what came of the claim, with
        whether it was refused.
        Raises UnreadableTask: then the hint stays where it is.
        """
        token = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        at_s, at_ms = self._clock.monotonic_s(), self._clock.now_ms()
        claim = Claim(hint, token, at_s, at_ms, self._held.put(hint, token, at_s))
        try:
            return await self._made(claim, claimed)
        finally:
            self._held.leave(claim.entry)

    async def _made(self, claim: Claim, claimed: Callable[[bool], None]) -> Again | None:
        try:
            answer = await self._answered(claim)
        except StoreBusy:
            self._held.erase(claim.entry)
            self._counts["held_back"] += 1
            claimed(False)
            return Again(self._clock.now_ms() + HELD_BACK_MS)
        except StoreUnavailable as error:
            claimed(False)
            return self._left_to_its_lease(claim, error)
        claimed(isinstance(answer, Refused))
        if isinstance(answer, Refused):
            self._held.erase(claim.entry)
            self._counts["refused"] += 1
            now_ms = self._clock.now_ms()
            return await obsolete.looked_at(claim.hint, answer.task, self._queue, now_ms)
        self._counts["claimed"] += 1
        self._record("claim", answer)
        of_claim = REQUEST_ID.set(answer.request_id)
        try:
            return await self._see_through(claim, answer)
        except StoreUnavailable as error:
            return self._left_to_its_lease(claim, error)
        finally:
            REQUEST_ID.reset(of_claim)

    async def _answered(self, claim: Claim) -> Task | Refused:
        """What came of the claim; it takes the place of those of the dead."""
        hint = claim.hint
        ask, lost = self._queue.claim, self._held.lost_claims(hint.id)
        if lost:
            ask = partial(self._queue.take_over, lost=lost)
        answer = await ask(
            hint,
            claim=claim.token,
            processor=self._context.id,
            now_ms=claim.at_ms,
            until_s=claim.at_s + START_WITHIN_S,
        )
        if lost and not _may_yet_be_claimed(answer):
            self._held.forget(hint.id)
        return answer

    def _left_to_its_lease(self, claim: Claim, error: StoreUnavailable) -> Again:
        """What the store left unknown is known once the lease is over."""
        extra = {"action": "left", "task_id": claim.hint.id}
        log.warning("attempt left to its lease: %s", error, extra=extra)
        return Again(claim.at_ms + LEASE_MS)

    async def _see_through(self, claim: Claim, held: Task) -> Again | None:
        hint = claim.hint
        settled = await self._execution.outcome(hint, held, claim.at_s)
        is_committed = await self._settle(held, settled, claim.at_s + SETTLE_WITHIN_S)
        self._held.erase(claim.entry)
        if not is_committed:
            self._counts["lease_lost"] += 1
            extra = _about(held, "lease_lost")
            log.warning("lost the lease before settling", extra=extra)
            return Again(self._clock.now_ms() + LEASE_LOST_MS)
        if settled.state is TaskState.COMPLETED and settled.result is not None:
            self._context.emit(settled.result)
            self._record("print", settled, line=settled.result)
        if settled.due_at_ms is not None:
            self._scheduled(hint._replace(due_at_ms=settled.due_at_ms))
        await self._clean_up(hint, settled)
        self._counts[settled.state] += 1
        if settled.state is not TaskState.COMPLETED:
            text = "attempt %d did not complete: %s"
            extra = _about(settled, f"task_{settled.state}")
            log.info(text, held.attempt, settled.error, extra=extra)
        return None

    async def _settle(self, held: Task, settled: Task, until_s: float) -> bool:
        """Whether it was committed; the record says null if that is not known."""
        state, began_s = settled.state, self._clock.monotonic_s()
        try:
            committed = await self._queue.settle(held, settled, until_s=until_s)
        except StoreUnavailable:
            self._record("settle", settled, state=state, began_s=began_s, committed=None)
            raise
        self._record("settle", settled, state=state, began_s=began_s, committed=committed)
        return committed

    async def _clean_up(self, hint: Hint, settled: Task) -> None:
        if settled.due_at_ms != hint.due_at_ms:
            await self._queue.forget_hint(hint)
        if settled.state in FINISHED:
            await self._queue.forget_open(settled)


def _may_yet_be_claimed(answer: Task | Refused) -> bool:
    """Whether a claim that is still under way could be granted."""
    task = answer.task if isinstance(answer, Refused) else None
    return task is not None and task.state is TaskState.SCHEDULED


def _about(task: Task, action: str) -> dict[str, object]:
    return {"action": action, "task_id": task.id, "attempt": task.attempt}
