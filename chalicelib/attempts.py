"""The attempts of a task: one for each claim, its deadlines, and what became of it."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

TIMEOUT_S = 5.0
"""A handler that has not finished this long after its start is cancelled."""
LEASE_MS = 10_000
"""How long a claim keeps others away: 2 x timeout."""
START_WITHIN_S = 3.0
"""Counted from the claim: a handler that would start later does not start at all."""
KILL_AFTER_S = 8.5
"""Counted from the claim: a process in which a handler is still alive then is killed."""
SETTLE_WITHIN_S = 9.5
"""Counted from the claim: a settlement still unanswered then is left to the lease."""
ATTEMPTS_KEPT = 20
"""A record keeps its first attempts and its last, so many of each; between them a gap shows."""


class Outcome(StrEnum):
    """What became of an attempt."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRIED = "retried"
    RELEASED = "given_back"
    LEASE_LOST = "lease_lost"


LAST_OUTCOMES = frozenset({Outcome.COMPLETED, Outcome.FAILED})
"""No attempt follows them, unless a client asks for one."""


class Attempt(NamedTuple):
    """One claim of a task, and what became of it.

    number: counts from 1. started_ts_ms: of the claim, and of the handler once that is known.
    ended_ts_ms: when it was settled; of a lost lease, when that was over or was taken over.
    """

    number: int
    processor: str
    started_ts_ms: int
    ended_ts_ms: int | None = None
    outcome: Outcome = Outcome.RUNNING
    error: str | None = None

    def overtaken(self, now_ms: int) -> "Attempt":
        """As it is once another attempt stands behind it: settled, or its lease was lost.

        now_ms: when it was claimed again: at the end of the lease, or before it by a takeover.
        """
        if self.outcome is not Outcome.RUNNING:
            return self
        since_ms, until_ms = self.started_ts_ms, self.started_ts_ms + LEASE_MS
        ended_ms = min(max(since_ms, now_ms), until_ms)
        return self._replace(ended_ts_ms=ended_ms, outcome=Outcome.LEASE_LOST)


Attempts = tuple[Attempt, ...]
"""Oldest first; only the last can be running."""


def with_next(attempts: Attempts, processor: str, now_ms: int) -> Attempts:
    """With one more attempt; if the one before it still ran, its lease is lost."""
    number = attempts[-1].number + 1 if attempts else 1
    return (
        *(earlier.overtaken(now_ms) for earlier in attempts),
        Attempt(number, processor, now_ms),
    )


def with_start(attempts: Attempts, now_ms: int) -> Attempts:
    """With the instant at which the handler of the last one really started."""
    *earlier, last = attempts
    return (*earlier, last._replace(started_ts_ms=now_ms))


def with_end(
    attempts: Attempts, outcome: Outcome, now_ms: int, error: str | None = None
) -> Attempts:
    """With the last one ended, and no more of them than are kept."""
    *earlier, last = attempts
    ended = last._replace(ended_ts_ms=now_ms, outcome=outcome, error=error)
    kept = earlier[:ATTEMPTS_KEPT] + earlier[ATTEMPTS_KEPT:][1 - ATTEMPTS_KEPT :]
    return (*kept, ended)


def start_ms(attempts: Iterable[Attempt]) -> int | None:
    """The start of the first of them that was not released unrun."""
    for attempt in attempts:
        if attempt.outcome is not Outcome.RELEASED:
            return attempt.started_ts_ms
    return None


def last_lease_lost_ms(attempts: Sequence[Attempt]) -> int | None:
    """When the last lost lease was over; None if none was lost."""
    return max(
        (
            attempt.ended_ts_ms
            for attempt in attempts
            if attempt.outcome is Outcome.LEASE_LOST and attempt.ended_ts_ms is not None
        ),
        default=None,
    )
