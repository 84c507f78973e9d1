"""The result of each task of a batch."""

from http import HTTPStatus

from chalicelib.api.failures import create_error, http_error
from chalicelib.api.idempotency import replay_error
from chalicelib.api.new_tasks import NewTask
from chalicelib.api.rendering import task_json
from chalicelib.errors import SchedulerError, StoreUnavailable, TaskExists
from chalicelib.task import Task


def create_result(new: NewTask, task_id: str, stored: Task | SchedulerError) -> dict[str, object]:
    """For a task that the store was asked to create. stored: what it returned for it."""
    if isinstance(stored, Task):
        return {"status": HTTPStatus.CREATED, "task": task_json(stored)}
    if isinstance(stored, TaskExists):
        error = replay_error(stored.task, new)
        if error is None:
            return {"status": HTTPStatus.OK, "task": task_json(stored.task)}
        return error_result(error)
    if isinstance(stored, StoreUnavailable):
        return error_result(create_error(stored, task_id))
    return error_result(stored)


def error_result(error: Exception) -> dict[str, object]:
    """For a task that was not created."""
    body = http_error(error).body
    return {"status": body["Code"], "error": body}
