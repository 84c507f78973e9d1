"""The task types. A new type is one coroutine under `@handles("Name")`.

A handler gets the run it is part of and returns the one line to print. The line is printed after
it is committed as the task's result, by the processor: a handler prints nothing itself. What it
raises counts as a failure. It can be run again after a crash, so its effects outside must bear it.
Its keyword parameters, if it has any, are what a task's payload must hold.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from chalicelib import payload
from chalicelib.config import BAR_URL
from chalicelib.task import Task

LINE_BYTES_MAX = 4095
"""With its newline a line fits PIPE_BUF, so that processes sharing a pipe never mix lines."""
ERROR_CHARS_MAX = 1_000


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


@handles("Foo")
async def foo(run: Run) -> str:
    """Sleep 3 seconds."""
    await asyncio.sleep(3)
    return f"Foo {run.task.id}"


@handles("Bar")
async def bar(run: Run) -> str:
    """Ask a web site for the time; the line is the status code of its answer."""
    import aiohttp  # Not before it is needed: the API only wants the names of the types.

    async with aiohttp.ClientSession() as session, session.get(run.bar_url) as response:
        return str(response.status)


@handles("Baz")
async def baz(run: Run) -> str:
    """Draw a number."""
    return f"Baz {run.rng.randint(0, 343)}"


def called(handler: Handler, run: Run) -> Awaitable[str]:
    """The handler under way, with the task's payload as its keyword arguments."""
    text = run.task.payload
    return handler(run, **json.loads(text)) if text else handler(run)


class Failure(NamedTuple):
    """What came of a handler instead of a line, in words that can be stored, and what it raised."""

    text: str
    cause: type[BaseException]


class HandlerFailed(Exception):
    """A handler failed elsewhere. The message is the text of its Failure."""


async def tried(handler: Callable[[], Awaitable[str]]) -> str | Failure:
    """The handler's line, or its failure, whatever it does: nothing is raised.

    Only if it cancels the task that runs this and then ends, that task is cancelled.
    """
    try:
        return checked_line(await handler())
    except BaseException as error:
        return failure_of(error)


def failure_of(error: BaseException) -> Failure:
    """Even if the error cannot tell what it is."""
    cause = type(error)
    try:
        text = f"{error}" if cause is HandlerFailed else f"{cause.__name__}: {error}"
        if text == "CancelledError: ":
            return CANCELLED
        text = text[:ERROR_CHARS_MAX].encode(errors="replace").decode()
    except BaseException:
        text = "an error whose own text cannot be told"
    return Failure(text, cause)


CANCELLED = Failure("CancelledError: the handler cancelled itself", asyncio.CancelledError)


def checked_line(line: object) -> str:
    """What a handler returned, if it can be printed as one line; else raises."""
    if not isinstance(line, str):
        raise TypeError(
            f"a handler returns its line as str, this one returned {type(line).__name__}"
        )
    line = str.__str__(line)  # A subclass may lie about what it is.
    if "\n" in line or "\r" in line:
        raise ValueError("a handler's line must not contain a line break")
    if len(line.encode()) > LINE_BYTES_MAX:
        raise ValueError(f"a handler's line is at most {LINE_BYTES_MAX} bytes of UTF-8")
    return line
