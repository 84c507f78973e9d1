"""A task, its states, and the legal changes as pure functions.

    scheduled ──claim──► running ──complete──► completed
      ▲ ▲                 │  │ └────fail─────► failed ─┐
      │ └─retry, release──┘  └─claim again             │
      │                        once the lease is over  │
      └──────────────────run again─────────────────────┘

Everything but a running task under its lease can be deleted.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from chalicelib.attempts import (
    LAST_OUTCOMES,
    LEASE_MS,
    Attempts,
    Outcome,
    last_lease_lost_ms,
    start_ms,
    with_end,
    with_next,
    with_start,
)

FAILURES_MAX = 3
"""This many failures (raised, or killed at the timeout) and the task is failed."""
LOST_LEASES_MAX = 10
"""After this many lost leases the next claim runs nothing and fails the task."""
RESTS_FROM_LOST = 3
"""From this many lost leases on, a task rests before it runs again."""
REST_S = 5.0
REST_MAX_S = 600.0
"""The first rest, counted from the end of the last lost lease; it doubles with each further one, up
to the second figure. So a task that kills its processors does so ever less often."""
BACKOFF_S = 2.0
"""Wait after the first failure; it doubles with each further one."""
BACKOFF_JITTER = 0.25
"""At most this share is added to a wait, so that tasks which failed together spread."""
TOMBSTONE_S = 86_400
"""A deleted task is kept this long, so that a late create cannot bring it back."""


class TaskState(StrEnum):
    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"


UNFINISHED = frozenset({TaskState.SCHEDULED, TaskState.RUNNING})
FINISHED = frozenset({TaskState.COMPLETED, TaskState.FAILED})
VISIBLE = UNFINISHED | FINISHED
"""The states a client can see; a deleted task is no task any more."""


class IllegalChange(Exception):
    """The task's state does not allow this change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """What is kept of a task, and what follows from it.

    Times are milliseconds since the epoch; None means "not yet" or "no longer".

    id: lower-case hyphenated UUID.
    send_ts_ms: when the client wants it run; never changes.
    due_at_ms: when anyone may next claim it; moves; None once finished or deleted.
    token: fresh for each create, delete and run again, to know one's own write again.
    claim: the fencing token, fresh for each claim; kept after settling, for the same reason.
    given_back: attempts that count neither as failures nor as lost leases: those that ended without
    running the handler, and all from before the task was last run again.
    payload: what the client gave for the handler, as the text of a JSON object.
    request_id: of the request that created it; None in records of earlier versions.
    place: where the store keeps the rows that lead to the task; only the store writes and reads it.
    attempts: one for each claim, oldest first; only the last can be running.
    """

    id: str
    type: str
    send_ts_ms: int
    created_ts_ms: int
    token: str
    state: TaskState = TaskState.SCHEDULED
    due_at_ms: int | None = None
    failures: int = 0
    given_back: int = 0
    claim: str | None = None
    result: str | None = None
    error: str | None = None
    purge_at_s: int | None = None
    payload: str | None = None
    request_id: str | None = None
    place: str | None = field(default=None, compare=False)
    attempts: Attempts = ()

    @property
    def attempt(self) -> int:
        """Number of the latest attempt; 0 before the first."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def ended_attempts(self) -> Attempts:
        return tuple(one for one in self.attempts if one.outcome is not Outcome.RUNNING)

    @property
    def processor(self) -> str | None:
        """Who made the latest claim."""
        return self.attempts[-1].processor if self.attempts else None

    @property
    def started_ts_ms(self) -> int | None:
        """Start of the latest attempt that was not released unrun."""
        return start_ms(reversed(self.attempts))

    @property
    def first_started_ts_ms(self) -> int | None:
        """Start of the first attempt that was not released unrun."""
        return start_ms(self.attempts)

    @property
    def finished_ts_ms(self) -> int | None:
        """When its result or its failure was known; None for an unfinished task."""
        last = self.attempts[-1] if self.attempts and self.state not in UNFINISHED else None
        return last.ended_ts_ms if last and last.outcome in LAST_OUTCOMES else None

    @property
    def lateness_ms(self) -> int | None:
        """Start of the first attempt minus `send_ts`; None before it."""
        started_ms = self.first_started_ts_ms
        return None if started_ms is None else started_ms - self.send_ts_ms

    @property
    def leases_lost(self) -> int:
        """Earlier attempts whose processor never settled them."""
        current = 1 if self.state is not TaskState.SCHEDULED and self.attempt else 0
        settled = self.failures + self.given_back
        return max(0, self.attempt - current - settled)

    @property
    def rests_until_ms(self) -> int | None:
        """Before this time it should not run, for its last lost lease; None if it may."""
        lost_ms = last_lease_lost_ms(self.attempts)
        if self.leases_lost < RESTS_FROM_LOST or lost_ms is None:
            return None
        return lost_ms + round(rest_s(self.leases_lost) * 1000)

    @property
    def is_resting(self) -> bool:
        """Whether it was released until it has rested."""
        return self.state is TaskState.SCHEDULED and self.due_at_ms == self.rests_until_ms

    def is_claimable(self, now_ms: int) -> bool:
        return self.due_at_ms is not None and self.due_at_ms <= now_ms

    def is_deletable(self, now_ms: int) -> bool:
        if self.state is TaskState.RUNNING:
            return self.is_claimable(now_ms)
        return self.state is not TaskState.DELETED


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(TaskRecord):
    """A task and its legal changes. Each returns the changed task, or raises IllegalChange."""

    @classmethod
    def new(
        cls,
        *,
        id: str,
        type: str,
        send_ts_ms: int,
        now_ms: int,
        token: str,
        payload: str | None = None,
        request_id: str | None = None,
    ) -> Self:
        """A task as it is first stored: due at its time, or now if that has passed."""
        return cls(
            id=id,
            type=type,
            send_ts_ms=send_ts_ms,
            created_ts_ms=now_ms,
            due_at_ms=max(send_ts_ms, now_ms),
            token=token,
            payload=payload,
            request_id=request_id,
        )

    def claimed(self, *, now_ms: int, claim: str, processor: str) -> Self:
        """The next attempt, held by `processor` until its lease is over."""
        if not self.is_claimable(now_ms):
            raise IllegalChange(f"{self.state} task due at {self.due_at_ms} claimed at {now_ms}")
        return self._held(now_ms=now_ms, claim=claim, processor=processor)

    def taken_over(self, *, now_ms: int, claim: str, processor: str) -> Self:
        """The next attempt in place of one whose process is known to be dead: its lease is lost,
        and need not be over."""
        self._must_run()
        return self._held(now_ms=now_ms, claim=claim, processor=processor)

    def _held(self, *, now_ms: int, claim: str, processor: str) -> Self:
        return replace(
            self,
            state=TaskState.RUNNING,
            claim=claim,
            attempts=with_next(self.attempts, processor, now_ms),
            due_at_ms=now_ms + LEASE_MS,
        )

    def started(self, now_ms: int) -> Self:
        """The claimed task with the instant at which its handler really started."""
        self._must_run()
        return replace(self, attempts=with_start(self.attempts, now_ms))

    def completed(self, result: str, *, now_ms: int) -> Self:
        self._must_run()
        return replace(
            self,
            state=TaskState.COMPLETED,
            result=result,
            error=None,
            due_at_ms=None,
            attempts=with_end(self.attempts, Outcome.COMPLETED, now_ms),
        )

    def failed(self, error: str, *, now_ms: int) -> Self:
        """Failed for good: too many failures or lost leases."""
        self._must_run()
        return replace(
            self,
            state=TaskState.FAILED,
            error=error,
            due_at_ms=None,
            attempts=with_end(self.attempts, Outcome.FAILED, now_ms, error),
        )

    def failed_once(self, error: str, *, now_ms: int, jitter: Callable[[], float]) -> Self:
        """One more failure: back to the schedule after a wait, or `failed` at the limit.

        jitter: returns a number in [0, 1).
        """
        self._must_run()
        counted = replace(self, failures=self.failures + 1)
        if counted.failures >= FAILURES_MAX:
            return counted.failed(error, now_ms=now_ms)
        wait_s = backoff_s(counted.failures) * (1 + BACKOFF_JITTER * jitter())
        return replace(
            counted,
            state=TaskState.SCHEDULED,
            error=error,
            due_at_ms=now_ms + round(wait_s * 1000),
            attempts=with_end(self.attempts, Outcome.RETRIED, now_ms, error),
        )

    def released(self, *, now_ms: int, hint_due_ms: int, not_before_ms: int | None = None) -> Self:
        """Released unrun: due again at once or at `not_before_ms`; no failure is counted.

        hint_due_ms: where the hint that led here lies; the new one must be another row.
        """
        self._must_run()
        return replace(
            self,
            state=TaskState.SCHEDULED,
            given_back=self.given_back + 1,
            due_at_ms=max(now_ms, hint_due_ms + 1, not_before_ms or now_ms),
            attempts=with_end(self.attempts, Outcome.RELEASED, now_ms),
        )

    def retried(self, *, now_ms: int, token: str) -> Self:
        """To be run again after it failed: due at once, and nothing that went wrong counts.

        Its hint lies behind those that led to it before: none of them is the same row.
        """
        if self.state is not TaskState.FAILED:
            raise IllegalChange(f"{self.state} task run again")
        return replace(
            self,
            state=TaskState.SCHEDULED,
            token=token,
            failures=0,
            given_back=self.attempt,
            due_at_ms=max(now_ms, self.send_ts_ms, (self.finished_ts_ms or now_ms) + 1),
        )

    def deleted(self, *, now_ms: int, token: str) -> Self:
        """The tombstone."""
        if not self.is_deletable(now_ms):
            raise IllegalChange(f"{self.state} task deleted at {now_ms}")
        return replace(
            self,
            state=TaskState.DELETED,
            token=token,
            claim=None,
            due_at_ms=None,
            attempts=self.ended_attempts,
            purge_at_s=now_ms // 1000 + TOMBSTONE_S,
        )

    def _must_run(self) -> None:
        if self.state is not TaskState.RUNNING:
            raise IllegalChange(f"{self.state} task settled")


def backoff_s(failures: int) -> float:
    """Wait before the next attempt after so many failures, without jitter: 2, 4, 8 … seconds."""
    return float(BACKOFF_S * 2 ** (failures - 1))


def rest_s(leases_lost: int) -> float:
    """Wait after the end of the last of so many lost leases: none, then 5, 10, 20 … seconds."""
    if leases_lost < RESTS_FROM_LOST:
        return 0.0
    return float(min(REST_MAX_S, REST_S * 2 ** (leases_lost - RESTS_FROM_LOST)))


def shard_of(task_id: str, shards: int) -> int:
    """The shard of a task, the same in every process."""
    return zlib.crc32(task_id.encode()) % shards
