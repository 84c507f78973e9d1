"""What an Idempotency-Key stands for: a task id, or the token of a retry.

Callers with names of their own have keys of their own: one that two of them use means two things.
"""

import uuid
from http import HTTPStatus

from chalicelib.api.new_tasks import NewTask
from chalicelib.api.responses import HttpError
from chalicelib.task import Task, TaskState

KEY_NAMESPACE = uuid.UUID("5a3c7f0e-8d0b-4f51-9c55-6a1e0a7f4c2d")
"""Turns a key into a task id. Another namespace would forget all keys in use."""


def task_id_of(key: str, index: int | None = None, caller: str | None = None) -> str:
    """The id of the task that a key names. index: of the task in a batch, None for a create."""
    # No key has a \n, so no two names are the same.
    return _named(caller, key if index is None else f"{key}\n{index}")


def retry_token_of(key: str, task_id: str, caller: str | None = None) -> str:
    """The token of the retry of this task that a key names."""
    return _named(caller, f"{key}\nretry\n{task_id}")


def _named(caller: str | None, name: str) -> str:
    namespace = KEY_NAMESPACE
    if caller is not None:
        namespace = uuid.uuid5(KEY_NAMESPACE, f"caller\n{caller}")
    return str(uuid.uuid5(namespace, name))


def replay_error(task: Task, new: NewTask) -> HttpError | None:
    """Why this create is no repetition of the one that made the task; None if it is one."""
    if task.state is TaskState.DELETED:
        return HttpError(
            HTTPStatus.CONFLICT,
            "The task created with this Idempotency-Key was deleted.",
            type="TaskDeleted",
            details={"id": task.id, "field": "Idempotency-Key", "expected": "another key"},
        )
    if (task.type, task.send_ts_ms, task.payload) != (new.type, new.send_ts_ms, new.payload):
        return HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "This Idempotency-Key came with another body before.",
            type="IdempotencyKeyReused",
            details={
                "id": task.id,
                "field": "Idempotency-Key",
                "expected": "the same type, send_ts and payload, or another key",
            },
        )
    return None
