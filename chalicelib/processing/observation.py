"""What the events of an attempt mean for statistics and metrics."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from chalicelib.attempts import Attempt, Outcome
from chalicelib.statistics import Statistics
from chalicelib.task import LOST_LEASES_MAX, Task

COUNTER_OF = {
    Outcome.COMPLETED: "completed",
    Outcome.FAILED: "failed",
    Outcome.RETRIED: "retried",
    Outcome.RELEASED: "released",
}


class Observation(NamedTuple):
    """counter: one of statistics.COUNTERS; one more of it. at_ms: when it happened.

    lateness_ms: of a task's first start. run_time_ms: of its handler. recovery_ms: from a claim
    whose lease was lost to the claim in its place.
    """

    type: str
    counter: str
    at_ms: int
    lateness_ms: int | None = None
    run_time_ms: int | None = None
    recovery_ms: int | None = None


def statistics_of(found: Sequence[Observation]) -> Statistics:
    """Of observations of one type."""
    return Statistics.of(
        Counter(one.counter for one in found),
        [one.lateness_ms for one in found if one.lateness_ms is not None],
        [one.run_time_ms for one in found if one.run_time_ms is not None],
    )


def observed(event: str, task: Task | None, more: dict[str, Any]) -> Observation | None:
    """See Record for the events. None: there is nothing to count."""
    if task is None:
        return None
    if event == "start":
        return _start(task)
    if event == "settle":
        ended_ms = task.attempts[-1].ended_ts_ms
        return _settlement(task, ended_ms) if more.get("committed") and ended_ms else None
    if event == "claim" and len(task.attempts) > 1:
        *_, before, last = task.attempts
        if before.outcome is Outcome.LEASE_LOST:
            now_ms = last.started_ts_ms
            recovery_ms = now_ms - before.started_ts_ms
            return Observation(task.type, "leases_lost", now_ms, recovery_ms=recovery_ms)
    return None


def _start(task: Task) -> Observation:
    """A task that was created after its time is late from then on."""
    attempts, lateness_ms = task.attempts, None
    now_ms = attempts[-1].started_ts_ms
    if len(attempts) == 1 or all(one.outcome is Outcome.RELEASED for one in attempts[:-1]):
        lateness_ms = max(0, now_ms - max(task.send_ts_ms, task.created_ts_ms))
    return Observation(task.type, "started", now_ms, lateness_ms)


def _settlement(task: Task, ended_ms: int) -> Observation:
    last, run_time_ms = task.attempts[-1], None
    if _has_run(task, last):
        run_time_ms = max(0, ended_ms - last.started_ts_ms)
    return Observation(task.type, COUNTER_OF[last.outcome], ended_ms, None, run_time_ms)


def _has_run(task: Task, last: Attempt) -> bool:
    """Not if it was released, nor if it failed for the leases that were lost before."""
    if last.outcome is Outcome.RELEASED:
        return False
    return last.number <= LOST_LEASES_MAX or task.leases_lost < LOST_LEASES_MAX
