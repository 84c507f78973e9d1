"""Runs a handler so that nothing it does gets past: its line comes of it, or a failure."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from chalicelib.task_types import Handler, Run, payload

LINE_BYTES_MAX = 4095
"""With its newline a line fits PIPE_BUF, so that processes sharing a pipe never mix lines."""
ERROR_CHARS_MAX = 1_000


def called(handler: Handler, run: Run) -> Awaitable[str]:
    """The handler under way, with the task's payload as its keyword arguments.

    Raises InvalidRequest if the payload does not fit the handler.
    """
    task = run.task
    if not task.payload:
        return handler(run)
    return handler(run, **payload.arguments(task.payload, task.type, handler))


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
