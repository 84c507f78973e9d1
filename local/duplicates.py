"""Whatever had, or could have had, an effect more than once."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from chalicelib.attempts import Outcome
from chalicelib.task import UNFINISHED, Task
from local.history import Attempt


def duplicates(attempts: Sequence[Attempt], task: Task | None) -> Iterator[str]:
    """Whatever had, or could have had, an effect more than once."""
    finishers = {attempt.claim.claim: attempt.claim.attempt for attempt in attempts
                 if attempt.has_finished
                 and attempt.claim.attempt not in _run_again(task)}  # fmt: skip
    if task is not None and task.finished_ts_ms is not None and task.claim is not None:
        finishers[task.claim] = task.attempt
    if len(finishers) > 1:
        yield f"finished by {len(finishers)} claims"
    if finishers and task is not None and task.state in UNFINISHED:
        yield f"finished, then {task.state} again"
    if any(_is_older(task, attempt) for attempt in attempts):
        yield "finished by an attempt before the one that held it"
    yield from _wrong_prints(attempts, finishers, task)
    yield from _stale_settlements(attempts)
    numbers = Counter(attempt.claim.attempt for attempt in attempts)
    yield from (f"attempt {number} claimed twice" for number, n in numbers.items() if n > 1)
    last = min(finishers.values(), default=math.inf)
    if any(attempt.claim.attempt > last for attempt in attempts):
        yield f"claimed again although attempt {last} finished it"


def _run_again(task: Task | None) -> Collection[int]:
    """Attempts that failed the task for good, before somebody asked to run it again."""
    if task is None:
        return ()
    failed = [one.number for one in task.attempts if one.outcome is Outcome.FAILED]
    return failed if task.state in UNFINISHED else [n for n in failed if n != task.attempt]


def _is_older(task: Task | None, attempt: Attempt) -> bool:
    """Whether the outcome was written by this claim's clock before it was granted."""
    if task is None or task.finished_ts_ms is None or task.claim != attempt.claim.claim:
        return False
    return attempt.claim.event == "claim" and task.finished_ts_ms < attempt.claim.at_ms


def _wrong_prints(
    attempts: Sequence[Attempt], finishers: Collection[str], task: Task | None
) -> Iterator[str]:
    prints = [event for attempt in attempts for event in attempt.prints]
    if len(prints) > 1:
        yield f"printed {len(prints)} times"
    for event in prints:
        if not finishers:
            yield "printed without being committed"
        elif event.claim not in finishers:
            yield "printed by another claim than the one that committed"
        elif task is not None and task.result != event.line:
            yield "printed another line than the one that was committed"


def _stale_settlements(attempts: Sequence[Attempt]) -> Iterator[str]:
    for earlier, later in pairwise(attempts):
        settle = earlier.settle
        if settle and settle.committed and settle.began_s > later.claim.at_s:
            yield "settled by a claim that held no more"
