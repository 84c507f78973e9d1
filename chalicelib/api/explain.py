"""Why a task has not run yet, from one reading of the store."""

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat
from chalicelib.task import FINISHED, Task, TaskState


class Reason(StrEnum):
    """For programs: they never change."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    RUNNING = "Running"
    NOT_YET_DUE = "NotYetDue"
    RETRY_SCHEDULED = "RetryScheduled"
    NO_HANDLER = "NoHandler"
    NO_PROCESSOR = "NoProcessor"
    LEASE_OVER = "LeaseOver"
    NO_HINT = "NoHint"
    STORE_SLOW = "StoreSlow"
    STORE_READ_ONLY = "StoreReadOnly"
    WAITING_FOR_PROCESSOR = "WaitingForProcessor"


class Explanation(NamedTuple):
    """A task at a time, and who could run it.

    live: the processors that are alive. owner: which of them looks after the task's shard.
    has_hint: whether the hint of a scheduled task stands; None for any other task.
    """

    task: Task
    now_ms: int
    reason: Reason
    shard: int
    owner: str | None
    live: Sequence[Heartbeat]
    has_hint: bool | None

    @property
    def seconds_until_due(self) -> float | None:
        """Negative for a task that is overdue."""
        due_at_ms = self.task.due_at_ms
        return None if due_at_ms is None else (due_at_ms - self.now_ms) / 1000

    @property
    def held_back_s(self) -> int:
        """How long the oldest hint has waited for the store's sake, anywhere."""
        return max((row.held_back_s for row in self.live), default=0)

    @property
    def _setback(self) -> str:
        if self.task.is_resting:
            return f"lost {self.task.leases_lost} processors and rests"
        return f"failed with attempt {self.task.attempt}"

    @property
    def message(self) -> str:
        """The reason in a sentence."""
        task, wait = self.task, _duration(abs(self.seconds_until_due or 0.0))
        attempt = f"attempt {task.attempt}"
        overdue = f"It has been due for {wait}"
        sentences = {
            Reason.COMPLETED: f"It was completed by {attempt}.",
            Reason.FAILED: f"It failed for good with {attempt}.",
            Reason.RUNNING: f"It runs, {attempt}; its lease ends in {wait}.",
            Reason.NOT_YET_DUE: f"It is due in {wait}.",
            Reason.RETRY_SCHEDULED: f"It {self._setback}; the next attempt is due in {wait}.",
            Reason.NO_HANDLER: f"{overdue}, and this version has no handler for its type.",
            Reason.NO_PROCESSOR: f"{overdue}, and no processor is alive.",
            Reason.STORE_READ_ONLY: f"{overdue}, and the store takes no writes: nothing can run"
            " until it does, and nobody can tell which processors are alive.",
            Reason.LEASE_OVER: f"The lease of {attempt} ended {wait} ago, unsettled; the next"
            " attempt is to come.",
            Reason.NO_HINT: f"{overdue}, and the hint that leads processors to it is missing;"
            " the sweep puts it again within minutes.",
            Reason.STORE_SLOW: f"{overdue}; the store is slower than its load, and all that is due"
            f" has to wait: the oldest for {_duration(self.held_back_s)}.",
            Reason.WAITING_FOR_PROCESSOR: f"{overdue}; a processor is to take it.",
        }
        return sentences[self.reason]


def _duration(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.1f} s"


def explain(
    task: Task,
    *,
    now_ms: int,
    shard: int,
    heartbeats: Iterable[Heartbeat],
    has_hint: bool | None,
    types: Collection[str],
    takes_writes: Callable[[], bool] = lambda: True,
) -> Explanation:
    """Explain a task as of `now_ms`.

    types: those that have a handler. takes_writes: asked only if no processor seems to be alive,
    since none can write a heartbeat to a store that takes no writes.
    """
    live = ownership.live_heartbeats(heartbeats, now_ms=now_ms)
    owner = ownership.owner(shard, tuple(row.processor for row in live)) if live else None
    reason = _reason(
        task,
        is_due=task.is_claimable(now_ms),
        has_handler=task.type in types,
        has_processor=owner is not None,
        takes_writes=takes_writes,
        has_hint=has_hint is not False,
        is_held_back=any(row.held_back_s for row in live),
    )
    return Explanation(task, now_ms, reason, shard, owner, live, has_hint)


def _reason(
    task: Task,
    *,
    is_due: bool,
    has_handler: bool,
    has_processor: bool,
    takes_writes: Callable[[], bool],
    has_hint: bool,
    is_held_back: bool,
) -> Reason:
    if task.state in FINISHED:
        return Reason.COMPLETED if task.state is TaskState.COMPLETED else Reason.FAILED
    if not is_due:
        if task.state is TaskState.RUNNING:
            return Reason.RUNNING
        is_retry = task.failures or task.is_resting
        return Reason.RETRY_SCHEDULED if is_retry else Reason.NOT_YET_DUE
    if not has_handler:
        return Reason.NO_HANDLER
    if not has_processor:
        return Reason.NO_PROCESSOR if takes_writes() else Reason.STORE_READ_ONLY
    if task.state is TaskState.RUNNING:
        return Reason.LEASE_OVER
    if not has_hint:
        return Reason.NO_HINT
    return Reason.STORE_SLOW if is_held_back else Reason.WAITING_FOR_PROCESSOR
