"""Which response each error gets."""

import functools
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import ParamSpec

from chalice.app import Request, Response

from chalicelib.api.responses import HttpError
from chalicelib.errors import (
    InvalidRequest,
    InvalidSetting,
    SchedulerError,
    StoreBusy,
    StoreMismatch,
    StoreReadOnly,
    StoreUnavailable,
    TaskExists,
    TaskNotFailed,
    TaskNotFound,
    TaskRunning,
    UnreadableTask,
    shortened,
)
from chalicelib.task import Task

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
RETRY_AFTER_MAX_S = 30

STATUS_BY_ERROR: Mapping[type[Exception], HTTPStatus] = {
    SchedulerError: HTTPStatus.INTERNAL_SERVER_ERROR,
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    TaskNotFound: HTTPStatus.NOT_FOUND,
    TaskRunning: HTTPStatus.CONFLICT,
    TaskNotFailed: HTTPStatus.CONFLICT,
    TaskExists: HTTPStatus.CONFLICT,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreReadOnly: HTTPStatus.SERVICE_UNAVAILABLE,
    UnreadableTask: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreMismatch: HTTPStatus.SERVICE_UNAVAILABLE,
    InvalidSetting: HTTPStatus.INTERNAL_SERVER_ERROR,
}
PUBLIC_MESSAGE: Mapping[type[Exception], str] = {
    StoreUnavailable: "The store does not answer.",
    StoreBusy: "The store is slower than what is asked of it. Nothing was changed;"
    " try again later.",
    StoreReadOnly: "The store answers, but takes no writes.",
}
"""For errors whose own message is for the log only."""

P = ParamSpec("P")


def errors_as_responses(view: Callable[P, Response]) -> Callable[P, Response]:
    """Decorator: answer every error of a view. Chalice itself would make each a bare 500."""

    @functools.wraps(view)
    def safe_view(*args: P.args, **kwargs: P.kwargs) -> Response:
        try:
            return view(*args, **kwargs)
        except Exception as error:
            return http_error(error).response()

    return safe_view


def replace_chalice_errors(
    request: Request, get_response: Callable[[Request], Response]
) -> Response:
    """Middleware: give what Chalice refuses by itself our form of failure."""
    response = get_response(request)
    if not isinstance(response.body, dict):
        return response
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return method_not_allowed(request.method, str(response.headers["Allow"])).response()
    return internal_error().response()


def http_error(error: Exception) -> HttpError:
    """What the client gets for this error. It learns only an id of an unexpected one."""
    if isinstance(error, HttpError):
        return error
    status = STATUS_BY_ERROR.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    if not isinstance(error, SchedulerError) or status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal_error(error)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(error, PUBLIC_MESSAGE.get(type(error), str(error)))
    return HttpError(status, str(error), type=type(error).__name__, details=error.details)


def create_error(error: StoreUnavailable, task_id: str) -> HttpError:
    """For a create that failed. If its outcome is unknown, the details have the task's id."""
    if isinstance(error, StoreBusy):
        return http_error(error)
    message = "The store does not answer: a task of this id was created or was not."
    return unavailable(error, message, id=task_id)


def running_error(task: Task, now_ms: int) -> HttpError:
    """For a delete of a task that runs: Retry-After is when its lease ends."""
    headers: dict[str, str] = {}
    details: dict[str, object] = {
        "id": task.id,
        "attempt": task.attempt,
        "processor": task.processor,
    }
    if task.due_at_ms is not None:
        wait_s = max(1, -((now_ms - task.due_at_ms) // 1000))
        headers["Retry-After"] = str(wait_s)
        details["retry_after_s"] = wait_s
    return HttpError(
        HTTPStatus.CONFLICT,
        str(TaskRunning(task)),
        type="TaskRunning",
        details=details,
        headers=headers,
    )


def unavailable(error: SchedulerError, message: str, **details: object) -> HttpError:
    """503, with when to try again. The reason goes to the log."""
    name = type(error).__name__
    log.warning("%s: %s", name, error, extra={"action": "unavailable", "about": error.details})
    wait_s = math.ceil(error.details.get("wait_s", RETRY_AFTER_S))
    headers = {"Retry-After": str(min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_S, wait_s)))}
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return HttpError(status, message, type=name, details=details, headers=headers)


def internal_error(error: Exception | None = None) -> HttpError:
    """500, with the id under which the log has the error."""
    error_id = str(uuid.uuid4())
    extra = {"action": "internal_error", "error_id": error_id}
    log.error("internal error %s", error_id, exc_info=error, extra=extra)
    return HttpError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something went wrong here. The log has more under the error_id.",
        type="InternalError",
        details={"error_id": error_id},
    )


def method_not_allowed(method: str, allow: str) -> HttpError:
    """allow: the methods that the path takes, separated by commas."""
    return HttpError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "This method is not allowed here.",
        details={"method": shortened(method), "expected": allow},
        headers={"Allow": allow},
    )
