"""The HTTP side: requests in, JSON out, and one object for every failure.

{"Code": 404, "Message": "There is no such task.", "Type": "TaskNotFound", "Details": {…}}
"""

import contextlib
import functools
import json
import logging
import math
import threading
import uuid
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus
from typing import ParamSpec

from chalice.app import Request, Response

from chalicelib.api import parsing
from chalicelib.api.explain import explain
from chalicelib.api.parsing import NewTask
from chalicelib.api.rendering import attempt_json, explanation_json, openapi_document, task_json
from chalicelib.clock import Clock
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
from chalicelib.store.clock import StoreClock
from chalicelib.store.contract import TaskStore
from chalicelib.task import Task, TaskState, shard_of
from chalicelib.task_types import HANDLERS

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 65_536
BATCH_PATH = "/tasks"
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""100 payloads of 32 KiB fit. Lambda takes 6 MB, of which the quoting of the body takes some."""
RETRY_AFTER_S = 1
RETRY_AFTER_MAX_S = 30
KEY_NAMESPACE = uuid.UUID("5a3c7f0e-8d0b-4f51-9c55-6a1e0a7f4c2d")
"""With it an Idempotency-Key becomes a task's id. Another one would forget all keys in use."""
BUSY = "The store is slower than what is asked of it. Nothing was changed; try again later."
READ_ONLY = "The store answers, but takes no writes."
ASK_WRITES_EVERY_S = 5.0
NO_TASK = str(uuid.UUID(int=0))

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
TYPE_BY_STATUS: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "InvalidRequest",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    HTTPStatus.REQUEST_TIMEOUT: "RequestTimeout",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "PayloadTooLarge",
    HTTPStatus.REQUEST_URI_TOO_LONG: "UriTooLong",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UnsupportedMediaType",
    HTTPStatus.EXPECTATION_FAILED: "ExpectationFailed",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "HeadersTooLarge",
    HTTPStatus.NOT_IMPLEMENTED: "NotImplemented",
    HTTPStatus.GATEWAY_TIMEOUT: "GatewayTimeout",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "HttpVersionNotSupported",
}
"""Failures of HTTP itself, which are none of the domain; some only API Gateway has."""


class HttpError(Exception):
    """A failure as its client sees it. The Type follows from the status unless it is given."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        type: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {
            "Code": int(status),
            "Message": message,
            "Type": type or TYPE_BY_STATUS[status],
            "Details": details or {},
        }

    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


class Api:
    """What the views do, on a store, with time and new ids given. Safe for many threads.

    shards: how many the store's time indexes have.
    """

    def __init__(
        self, store: TaskStore, clock: Clock, new_id: Callable[[], str], shards: int = 16
    ) -> None:
        self.store = store
        self.clock = StoreClock.over(clock)
        self.new_id = new_id
        self.shards = shards
        self._is_verified = False
        self._asking_writes = threading.Lock()
        self._ask_writes_at_s = -math.inf
        self._why_no_writes: str | None = None

    def verify_once(self) -> None:
        """Raise StoreMismatch unless the store has been fit to use once."""
        if not self._is_verified:
            self.store.check()
            self._is_verified = True

    def create(self, request: Request) -> Response:
        wanted = parsing.new_task(json_body(request))
        key = parsing.idempotency_key(header(request, "Idempotency-Key"))
        task_id = self.new_id() if key is None else id_of(key)
        try:
            if key is not None:
                self._raise_if_known(task_id)
            return created(self.store.create(self._new(task_id, wanted)))
        except TaskExists as known:
            return replayed(known.task, wanted)
        except StoreBusy:
            raise
        except StoreUnavailable as error:
            raise unknown_outcome(error, task_id) from error

    def create_many(self, request: Request) -> Response:
        """Each task for itself: its status and the task, or its error, stand at its place."""
        wanted = parsing.new_tasks(json_body(request, BATCH_BYTES_MAX))
        key = parsing.idempotency_key(header(request, "Idempotency-Key"))
        ids = [self.new_id() if key is None else id_of(key, place) for place in range(len(wanted))]
        tasks = {
            id: self._new(id, one)
            for id, one in zip(ids, wanted, strict=True)
            if isinstance(one, NewTask)
        }
        stored = dict(zip(tasks, self.store.create_many(list(tasks.values())), strict=True))
        results = [
            result(id, one, stored[id]) if isinstance(one, NewTask) else error_result(one)
            for id, one in zip(ids, wanted, strict=True)
        ]
        return json_response({"results": results})

    def list(self, request: Request) -> Response:
        query = request.query_params
        values = {} if query is None else {name: query.getlist(name) for name in query}
        filter = parsing.task_filter(values)
        page = self.store.list(filter)
        cursor = None if page.next is None else parsing.cursor(filter, page.next)
        return json_response({"tasks": [task_json(task) for task in page.tasks], "cursor": cursor})

    def get(self, task_id: str) -> Response:
        return json_response(task_json(self.store.get(known_form(task_id))))

    def attempts(self, task_id: str) -> Response:
        task = self.store.get(known_form(task_id))
        return json_response({"attempts": [attempt_json(attempt) for attempt in task.attempts]})

    def explain(self, task_id: str) -> Response:
        """Why the task has not run yet."""
        task = self.store.get(known_form(task_id))
        has_hint = self.store.has_hint(task) if task.state is TaskState.SCHEDULED else None
        explanation = explain(
            task,
            now_ms=self.clock.now_ms(),
            shard=shard_of(task.id, self.shards),
            heartbeats=self.store.heartbeats(),
            has_hint=has_hint,
            types=HANDLERS,
            takes_writes=self._takes_writes,
        )
        return json_response(explanation_json(explanation))

    def delete(self, task_id: str) -> Response:
        # A lease that may still hold is not over.
        now_ms = self.clock.earliest_ms()
        try:
            self.store.delete(known_form(task_id), now_ms=now_ms, token=self.new_id())
        except TaskRunning as error:
            raise running(error.task, now_ms) from error
        return Response(body="", status_code=HTTPStatus.NO_CONTENT)

    def retry(self, task_id: str, request: Request) -> Response:
        """Run a failed task again. With the same Idempotency-Key it is the same retry."""
        key = parsing.idempotency_key(header(request, "Idempotency-Key"))
        task_id = known_form(task_id)
        token = self.new_id() if key is None else id_of_retry(key, task_id)
        task = self.store.retry(task_id, now_ms=self.clock.now_ms(), token=token)
        return json_response(task_json(task))

    def ready(self) -> Response:
        """Whether the tables fit, answer and take writes, and how fast."""
        self.store.check()
        with contextlib.suppress(TaskNotFound):
            self.store.get(NO_TASK)
        self._must_take_writes()
        pressure = self.store.pressure()
        return json_response(
            {
                "status": "ok",
                "store": "slow" if pressure.is_slow else "ok",
                "latency_ms": round(pressure.latency_s * 1000),
            }
        )

    def _must_take_writes(self) -> None:
        """Raise StoreReadOnly unless the store takes writes, or took the last one seconds ago."""
        with self._asking_writes:
            if self.clock.monotonic_s() >= self._ask_writes_at_s:
                self._why_no_writes = None
                try:
                    self.store.check_writes()
                except StoreReadOnly as error:
                    self._why_no_writes = str(error)
                self._ask_writes_at_s = self.clock.monotonic_s() + ASK_WRITES_EVERY_S
            if self._why_no_writes is not None:
                raise StoreReadOnly(self._why_no_writes)

    def _takes_writes(self) -> bool:
        """As far as can be known now."""
        try:
            self._must_take_writes()
        except StoreUnavailable as error:
            return not isinstance(error, StoreReadOnly)
        return True

    def _new(self, task_id: str, wanted: NewTask) -> Task:
        return Task.new(
            id=task_id,
            type=wanted.type,
            send_ts_ms=wanted.send_ts_ms,
            now_ms=self.clock.now_ms(),
            token=self.new_id(),
            payload=wanted.payload,
        )

    def _raise_if_known(self, task_id: str) -> None:
        """Look before a create with a key, so that a repeated one leaves no rows to sweep."""
        try:
            raise TaskExists(self.store.get(task_id))
        except TaskNotFound:
            pass


def health() -> Response:
    """The process is up."""
    return json_response({"status": "ok"})


@functools.cache
def openapi() -> Response:
    """The document that describes this API."""
    return json_response(openapi_document())


def id_of(key: str, place: int | None = None) -> str:
    """The task that an Idempotency-Key names, alone or at a place of a batch. No key has a \\n."""
    return str(uuid.uuid5(KEY_NAMESPACE, key if place is None else f"{key}\n{place}"))


def id_of_retry(key: str, task_id: str) -> str:
    """The token of the retry of this task that an Idempotency-Key names."""
    return str(uuid.uuid5(KEY_NAMESPACE, f"{key}\nretry\n{task_id}"))


def created(task: Task) -> Response:
    return json_response(task_json(task), HTTPStatus.CREATED, {"Location": f"/task/{task.id}"})


def replayed(task: Task, wanted: NewTask) -> Response:
    """The answer to a create whose Idempotency-Key is known: the task as it is by now."""
    must_be_replay(task, wanted)
    headers = {"Location": f"/task/{task.id}", "Idempotency-Replayed": "true"}
    return json_response(task_json(task), HTTPStatus.OK, headers)


def result(task_id: str, wanted: NewTask, stored: Task | SchedulerError) -> dict[str, object]:
    """What a batch answers for one task."""
    try:
        if isinstance(stored, Task):
            return {"status": HTTPStatus.CREATED, "task": task_json(stored)}
        if not isinstance(stored, TaskExists):
            raise stored
        must_be_replay(stored.task, wanted)
        return {"status": HTTPStatus.OK, "task": task_json(stored.task)}
    except StoreBusy as error:
        return error_result(error)
    except StoreUnavailable as error:
        return error_result(unknown_outcome(error, task_id))
    except (SchedulerError, HttpError) as error:
        return error_result(error)


def error_result(error: Exception) -> dict[str, object]:
    body = http_error(error).body
    return {"status": body["Code"], "error": body}


def must_be_replay(task: Task, wanted: NewTask) -> None:
    """Raise HttpError unless the task is what this create would have made, and still there."""
    made = (task.type, task.send_ts_ms, task.payload)
    if task.state is TaskState.DELETED:
        raise HttpError(
            HTTPStatus.CONFLICT,
            "The task created with this Idempotency-Key was deleted.",
            type="TaskDeleted",
            details={"id": task.id, "field": "Idempotency-Key", "expected": "another key"},
        )
    if made != (wanted.type, wanted.send_ts_ms, wanted.payload):
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "This Idempotency-Key came with another body before.",
            type="IdempotencyKeyReused",
            details={
                "id": task.id,
                "field": "Idempotency-Key",
                "expected": "the same type, send_ts and payload, or another key",
            },
        )


def running(task: Task, now_ms: int) -> HttpError:
    """The refusal to delete a task under its lease, with when to try again."""
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


def known_form(given: str) -> str:
    """A task's id as we write it, from a path. Raises TaskNotFound for what can be none."""
    task_id = parsing.task_id(given)
    if task_id is None:
        raise TaskNotFound(id=shortened(given))
    return task_id


def header(request: Request, name: str) -> str | None:
    """The one value of a header, None if it was not sent. Raises InvalidRequest for several.

    The local server and API Gateway tell all values; without them Chalice knows one.
    """
    told = request.to_original_event().get("multiValueHeaders") or {}
    values = [value for key in told if key.lower() == name.lower() for value in told[key]]
    return parsing.one_value(name, values) if values else request.headers.get(name)


def json_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body of a request that must carry JSON and not too much of it."""
    given = header(request, "Content-Type") or ""
    parsed = Message()
    parsed["Content-Type"] = given
    is_json = parsed.get_content_type() == "application/json"
    if not is_json or parsed.get_content_charset("utf-8") != "utf-8":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON, and Content-Type must say so.",
            details={
                "field": "Content-Type",
                "got": shortened(given),
                "expected": "application/json",
            },
        )
    try:
        body = request.raw_body
    except ValueError:  # Lone surrogates, or base64 that is none.
        raise InvalidRequest("The body cannot be decoded.", field="body") from None
    if len(body) > bytes_max:
        raise too_large(bytes_max)
    return body if isinstance(body, bytes) else body.encode()


def bytes_max(path: str) -> int:
    """How long a body may be there."""
    return BATCH_BYTES_MAX if path.partition("?")[0] == BATCH_PATH else BODY_BYTES_MAX


def too_large(bytes_max: int) -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The body is too large.",
        details={"field": "body", "expected": f"at most {bytes_max} bytes"},
    )


def server_busy() -> HttpError:
    """This server has too many connections for this one."""
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "This server has too many connections. Nothing was changed; try again later.",
        type="ServerBusy",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def unknown_path(path: str) -> HttpError:
    message = "There is nothing at this path."
    return HttpError(HTTPStatus.NOT_FOUND, message, details={"path": shortened(path)})


def json_response(
    body: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Serialised here, where a failure to do so is still answered."""
    return Response(
        body=json.dumps(body, separators=(",", ":")),
        status_code=int(status),
        headers={"Content-Type": "application/json", **(headers or {})},
    )


def http_error(error: Exception) -> HttpError:
    """What the client is told. Of an error that nobody expected it learns no more than an id."""
    if isinstance(error, HttpError):
        return error
    status = STATUS_BY_ERROR.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    if not isinstance(error, SchedulerError) or status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal_error(error)
    if isinstance(error, StoreBusy):
        return unavailable(error, BUSY)
    if isinstance(error, StoreReadOnly):
        return unavailable(error, READ_ONLY)
    if isinstance(error, StoreUnavailable):
        return unavailable(error, "The store does not answer.")
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(error, str(error))
    return HttpError(status, str(error), type=type(error).__name__, details=error.details)


def unavailable(error: SchedulerError, message: str, **details: object) -> HttpError:
    """Try again soon. Why, the log tells."""
    name = type(error).__name__
    log.warning("%s: %s", name, error, extra={"action": "unavailable", "about": error.details})
    wait_s = math.ceil(error.details.get("wait_s", RETRY_AFTER_S))
    headers = {"Retry-After": str(min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_S, wait_s)))}
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return HttpError(status, message, type=name, details=details, headers=headers)


def unknown_outcome(error: StoreUnavailable, task_id: str) -> HttpError:
    message = "The store does not answer: a task of this id was created or was not."
    return unavailable(error, message, id=task_id)


def internal_error(error: Exception | None = None) -> HttpError:
    """Logs what happened under an id, and tells the id."""
    error_id = str(uuid.uuid4())
    extra = {"action": "internal_error", "error_id": error_id}
    log.error("internal error %s", error_id, exc_info=error, extra=extra)
    return HttpError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something went wrong here. The log has more under the error_id.",
        type="InternalError",
        details={"error_id": error_id},
    )


def enveloped(request: Request, get_response: Callable[[Request], Response]) -> Response:
    """Middleware: what Chalice refuses by itself becomes our error object too."""
    response = get_response(request)
    if not isinstance(response.body, dict):
        return response
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return not_allowed(request.method, str(response.headers["Allow"])).response()
    return internal_error().response()


def not_allowed(method: str, allow: str) -> HttpError:
    return HttpError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "This method is not allowed here.",
        details={"method": shortened(method), "expected": allow},
        headers={"Allow": allow},
    )


P = ParamSpec("P")


def answers(view: Callable[P, Response]) -> Callable[P, Response]:
    """The view with its failures answered, which Chalice would all make one bare 500."""

    @functools.wraps(view)
    def answered(*args: P.args, **kwargs: P.kwargs) -> Response:
        try:
            return view(*args, **kwargs)
        except Exception as error:
            return http_error(error).response()

    return answered
