"""The tree of expected failures, in words of the domain.

SchedulerError
├── InvalidRequest      the caller's input is wrong
├── TaskNotFound
├── TaskRunning         it cannot be deleted now; carries the task
├── TaskNotFailed       only a failed task is run again; carries the task
├── TaskExists          another create stands under the id; carries its task
├── StoreUnavailable    the outcome is unknown: never assume that nothing happened
│   ├── StoreBusy       it was not asked, since it is slower than what is asked of it
│   └── StoreReadOnly   it answers, and takes no writes
├── UnreadableTask      a record of a newer version: it is left alone
├── StoreMismatch       the tables are not the ones this version needs
└── InvalidSetting      an environment variable cannot be used
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from chalicelib.task import Task

GOT_CHARS_MAX = 100


def shortened(text: str) -> str:
    """For an error message: not too long, and possible to write in UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= GOT_CHARS_MAX else text[: GOT_CHARS_MAX - 1] + "…"


class SchedulerError(Exception):
    """Something expected went wrong. The message defaults to the docstring of the class."""

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])
        self.details: Mapping[str, Any] = details


class InvalidRequest(SchedulerError):
    """The request is not valid."""

    @classmethod
    def of(
        cls, message: str, field: str, got: str | None = None, expected: str | None = None
    ) -> Self:
        """What is wrong with this field, with what came and what was expected, if that is known."""
        details = {"field": field, "got": got, "expected": expected}
        known = {name: shortened(text) for name, text in details.items() if text is not None}
        return cls(message, **known)


class TaskNotFound(SchedulerError):
    """There is no such task."""


class TaskRunning(SchedulerError):
    """The task is running and cannot be deleted now."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task


class TaskNotFailed(SchedulerError):
    """The task has not failed: only a failed task can be run again."""

    def __init__(self, task: Task) -> None:
        super().__init__(id=task.id, state=task.state, field="state", expected="failed")
        self.task = task


class TaskExists(SchedulerError):
    """Another create stands under this id."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task


class StoreUnavailable(SchedulerError):
    """The store did not answer in time; whether the change was made is not known."""


class StoreBusy(StoreUnavailable):
    """The store was not asked: it is slower than what is asked of it, or away."""


class StoreReadOnly(StoreUnavailable):
    """The store answers, but takes no writes."""


class UnreadableTask(SchedulerError):
    """A record that this version cannot read, such as one written by a newer version."""


class StoreMismatch(SchedulerError):
    """A table of the store is missing or not as this version needs it."""


class InvalidSetting(SchedulerError):
    """A setting cannot be used."""
