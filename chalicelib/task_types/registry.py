"""Which task types there are, and who runs each: handlers register here.

A handler gets the run it is part of and returns the one line to print. The line is printed after
it is committed as the task's result, by the processor: a handler prints nothing itself. What it
raises counts as a failure. It can be run again after a crash, so its effects outside must bear it.
Its keyword parameters, if it has any, are what a task's payload must hold.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chalicelib.config import BAR_URL
from chalicelib.task import Task
from chalicelib.task_types import payload


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One attempt at a task, as its handler sees it."""

    task: Task
    rng: random.Random
    bar_url: str = BAR_URL


Handler = Callable[..., Awaitable[str]]
HANDLERS: dict[str, Handler] = {}


def handles(task_type: str) -> Callable[[Handler], Handler]:
    """Register a coroutine as the handler of a task type. A second one is refused.

    Raises TypeError if its parameters cannot be the schema of a payload.
    """

    def register(handler: Handler) -> Handler:
        if task_type in HANDLERS:
            raise ValueError(f"task type {task_type!r} has a handler already")
        payload.schema(handler)
        HANDLERS[task_type] = handler
        return handler

    return register
