"""What the body of a create or of a batch asks for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chalicelib import times
from chalicelib.api.fields import check_names, one_of, string, time_ms
from chalicelib.errors import InvalidRequest
from chalicelib.task_types import HANDLERS, payload

BATCH_MAX = 100
DAY_MS = 86_400_000

_FIELDS = ("type", "send_ts", "payload")
_BATCH = f"an array of 1 to {BATCH_MAX} tasks"


class Horizon(NamedTuple):
    """How far ahead a send_ts may be. days: 0 for any."""

    days: int
    now_ms: int

    def check(self, send_ts: str, send_ts_ms: int) -> None:
        """Raises InvalidRequest. send_ts: as it came."""
        if self.days and send_ts_ms - self.now_ms > self.days * DAY_MS:
            message, expected = "send_ts is too far ahead.", f"at most {self.days} days from now"
            raise InvalidRequest.of(message, "send_ts", send_ts, expected)


END_OF_TIME = Horizon(0, 0)
"""A time may be as late as RFC 3339 can say: the end of the year 9999."""


class NewTask(NamedTuple):
    """What a client asks for when it creates a task. payload: the text of a JSON object."""

    type: str
    send_ts_ms: int
    payload: str | None


def new_task(fields: Mapping[str, Any], horizon: Horizon = END_OF_TIME) -> NewTask:
    """From an object of `type`, `send_ts` and perhaps `payload`. Raises InvalidRequest."""
    check_names("field", fields, _FIELDS)
    task_type = one_of("type", string(fields, "type", "a task type"), HANDLERS)
    send_ts = string(fields, "send_ts", times.TIME_EXPECTED)
    send_ts_ms = time_ms("send_ts", send_ts)
    horizon.check(send_ts, send_ts_ms)
    text = payload.checked(fields.get("payload", {}), task_type, HANDLERS[task_type])
    return NewTask(
        type=task_type,
        send_ts_ms=send_ts_ms,
        payload=text if "payload" in fields else None,
    )


def new_tasks(
    fields: Mapping[str, Any], horizon: Horizon = END_OF_TIME
) -> Sequence[NewTask | InvalidRequest]:
    """From {"tasks": […]}. What is wrong with one task stands in its place.

    Raises InvalidRequest for what is wrong with the whole.
    """
    check_names("field", fields, ("tasks",))
    if "tasks" not in fields:
        raise InvalidRequest.of("tasks is missing.", "tasks", expected=_BATCH)
    tasks = fields["tasks"]
    if not isinstance(tasks, list):
        got = payload.shown(tasks)
        raise InvalidRequest.of("tasks must be an array.", "tasks", got, _BATCH)
    if not 1 <= len(tasks) <= BATCH_MAX:
        got = f"{len(tasks)} tasks"
        raise InvalidRequest.of("So many tasks are no batch.", "tasks", got, _BATCH)
    return [_new_task_or_error(task, horizon) for task in tasks]


def _new_task_or_error(task: object, horizon: Horizon) -> NewTask | InvalidRequest:
    if not isinstance(task, dict):
        got = payload.shown(task)
        return InvalidRequest.of("A task must be a JSON object.", "task", got, "a JSON object")
    try:
        return new_task(task, horizon)
    except InvalidRequest as error:
        return error
