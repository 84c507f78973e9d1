"""What a hint is worth whose task cannot be claimed now: a later look, or its deletion."""

from dataclasses import dataclass

from chalicelib.store.contract import Hint, TaskQueue
from chalicelib.task import FINISHED, Task, TaskState

ABSENT_MS = 60_000
"""A hint this much past its time whose task does not exist, or failed before that time, is deleted;
before, what creates it or runs it again may still be under way."""
LOOK_AGAIN_LEAST_MS, LOOK_AGAIN_MOST_MS = 50, 5_000


@dataclass(frozen=True, slots=True)
class Again:
    """The hint must be looked at again, at this time."""

    at_ms: int


async def looked_at(hint: Hint, task: Task | None, queue: TaskQueue, now_ms: int) -> Again | None:
    """Deletes what is obsolete. None: the hint needs no further look."""
    if task is None or _may_be_run_again(task, hint):
        if hint.due_at_ms < now_ms - ABSENT_MS:
            await queue.forget_hint(hint)
            return None
        # Its create, or what runs it again, is under way: soon at first, then ever less often.
        late_ms = now_ms - hint.due_at_ms
        return Again(now_ms + min(max(late_ms, LOOK_AGAIN_LEAST_MS), LOOK_AGAIN_MOST_MS))
    if task.state in FINISHED or task.state is TaskState.DELETED:
        await queue.forget_hint(hint)
        await queue.forget_open(task)
        return None
    assert task.due_at_ms is not None
    if task.state is TaskState.SCHEDULED and task.due_at_ms != hint.due_at_ms:
        await queue.forget_hint(hint)
        return None
    return Again(max(task.due_at_ms, now_ms + 1))


def _may_be_run_again(task: Task, hint: Hint) -> bool:
    """No hint that led to a task before it failed lies behind the failure."""
    is_failed = task.state is TaskState.FAILED and task.finished_ts_ms is not None
    return is_failed and hint.due_at_ms > (task.finished_ts_ms or 0)
