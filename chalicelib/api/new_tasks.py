"""What the body of a create or of a batch asks for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chalicelib import times
from chalicelib.api.fields import check_names, one_of, string, time_ms
from chalicelib.errors import InvalidRequest
from chalicelib.task_types import HANDLERS, payload

BATCH_MAX = 100

_FIELDS = ("type", "send_ts", "payload")
_BATCH = f"an array of 1 to {BATCH_MAX} tasks"


class NewTask(NamedTuple):
    """What a client asks for when it creates a task. payload: the text of a JSON object."""

    type: str
    send_ts_ms: int
    payload: str | None


def new_task(fields: Mapping[str, Any]) -> NewTask:
    """From an object of `type`, `send_ts` and perhaps `payload`. Raises InvalidRequest."""
    check_names("field", fields, _FIELDS)
    task_type = one_of("type", string(fields, "type", "a task type"), HANDLERS)
    send_ts_ms = time_ms("send_ts", string(fields, "send_ts", times.TIME_EXPECTED))
    text = payload.checked(fields.get("payload", {}), task_type, HANDLERS[task_type])
    return NewTask(
        type=task_type,
        send_ts_ms=send_ts_ms,
        payload=text if "payload" in fields else None,
    )


def new_tasks(fields: Mapping[str, Any]) -> Sequence[NewTask | InvalidRequest]:
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
    return [_new_task_or_error(task) for task in tasks]


def _new_task_or_error(task: object) -> NewTask | InvalidRequest:
    if not isinstance(task, dict):
        got = payload.shown(task)
        return InvalidRequest.of("A task must be a JSON object.", "task", got, "a JSON object")
    try:
        return new_task(task)
    except InvalidRequest as error:
        return error
