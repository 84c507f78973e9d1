"""What the events of an attempt mean for statistics and metrics."""

from typing import Any, NamedTuple

from chalicelib.attempts import Outcome
from chalicelib.task import LOST_LEASES_MAX, Task

COUNTER_OF = {
    Outcome.COMPLETED: "completed",
    Outcome.FAILED: "failed",
    Outcome.RETRIED: "retried",
    Outcome.RELEASED: "released",
}


class Observation(NamedTuple):
    """counter: one of statistics.COUNTERS; one more of it.

    lateness_ms: of a task's first start. run_time_ms: of its handler. recovery_ms: from a claim
    whose lease was lost to the claim in its place.
    """

    type: str
    counter: str
    lateness_ms: int | None = None
    run_time_ms: int | None = None
    recovery_ms: int | None = None


def observed(event: str, task: Task | None, more: dict[str, Any]) -> Observation | None:
    """See Record for the events. None: there is nothing to count."""
    if task is None:
        return None
    if event == "start":
        return _start(task)
    if event == "settle":
        return _settlement(task) if more.get("committed") else None
    if event == "claim" and len(task.attempts) > 1:
        *_, before, last = task.attempts
        if before.outcome is Outcome.LEASE_LOST:
            recovery_ms = last.started_ts_ms - before.started_ts_ms
            return Observation(task.type, "leases_lost", recovery_ms=recovery_ms)
    return None


def _start(task: Task) -> Observation:
    """A task that was created after its time is late from then on."""
    started_ms, lateness_ms = task.started_ts_ms, None
    if started_ms is not None and started_ms == task.first_started_ts_ms:
        lateness_ms = max(0, started_ms - max(task.send_ts_ms, task.created_ts_ms))
    return Observation(task.type, "started", lateness_ms=lateness_ms)


def _settlement(task: Task) -> Observation:
    last = task.attempts[-1]
    has_run = last.outcome is not Outcome.RELEASED and task.leases_lost < LOST_LEASES_MAX
    run_time_ms = None
    if has_run and last.ended_ts_ms is not None:
        run_time_ms = max(0, last.ended_ts_ms - last.started_ts_ms)
    return Observation(task.type, COUNTER_OF[last.outcome], run_time_ms=run_time_ms)
