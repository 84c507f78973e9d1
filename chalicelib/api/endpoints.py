"""The use cases behind the views: each takes a request, or an id, and returns a response."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus

from chalice.app import Request, Response

from chalicelib.api.access import caller_of
from chalicelib.api.batch import create_result, error_result
from chalicelib.api.create_limit import CreateLimit
from chalicelib.api.explain import explain
from chalicelib.api.failures import create_error, running_error
from chalicelib.api.idempotency import replay_error, retry_token_of, task_id_of
from chalicelib.api.json_object import json_object
from chalicelib.api.list_query import cursor, task_filter
from chalicelib.api.new_tasks import Horizon, NewTask, new_task, new_tasks
from chalicelib.api.openapi import openapi_document
from chalicelib.api.readiness import Readiness
from chalicelib.api.rendering import attempt_json, explanation_json, readiness_json, task_json
from chalicelib.api.request import (
    BATCH_BYTES_MAX,
    idempotency_key,
    json_body,
    path_task_id,
    query_values,
)
from chalicelib.api.responses import json_response
from chalicelib.api.settings import ApiSettings
from chalicelib.api.wakeups import WakeUps
from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import (
    SchedulerError,
    StoreBusy,
    StoreUnavailable,
    TaskExists,
    TaskNotFound,
    TaskRunning,
)
from chalicelib.request_id import REQUEST_ID
from chalicelib.store.clock import StoreClock
from chalicelib.store.contract import TaskStore
from chalicelib.task import Task, TaskState, shard_of
from chalicelib.task_types import HANDLERS
from chalicelib.wakeups.sender import Sender

DEFAULTS = Settings()

NOT_CREATED = (TaskExists, StoreBusy)
"""Of a create that ends with one of these nothing counts towards a limit."""


class Api:
    """The use cases on a store. Safe for many threads.

    new_id: makes a fresh UUID. settings: how many shards there are, and how far processors look
    ahead. sender: of wake-up messages; None: none are sent. limits: what clients may do.
    """

    def __init__(
        self,
        store: TaskStore,
        clock: Clock,
        new_id: Callable[[], str],
        settings: Settings = DEFAULTS,
        sender: Sender | None = None,
        limits: ApiSettings | None = None,
    ) -> None:
        self.store = store
        self.clock = StoreClock.over(clock)
        self.new_id = new_id
        self.shards = settings.shards
        self.wakeups = WakeUps(store, sender, self.clock, settings)
        self.readiness = Readiness(store, self.clock)
        self.limits = limits or ApiSettings()
        self.create_limit = CreateLimit(self.limits.creates_per_minute, self.clock)

    def create(self, request: Request) -> Response:
        """Create a task. With a known Idempotency-Key: the task that it made before."""
        new = new_task(json_object(json_body(request)), self._horizon())
        key, caller = idempotency_key(request), caller_of(request)
        task_id = self.new_id() if key is None else task_id_of(key, caller=caller)
        status, headers = HTTPStatus.CREATED, {"Location": f"/task/{task_id}"}
        try:
            if key is not None:
                self._raise_if_exists(task_id)
            task = self._create(caller, self._task(task_id, new))
        except TaskExists as exists:
            task = exists.task
            if error := replay_error(task, new):
                raise error from None
            status, headers["Idempotency-Replayed"] = HTTPStatus.OK, "true"
        except StoreUnavailable as error:
            raise create_error(error, task_id) from error
        return json_response(task_json(task), status, headers)

    def create_many(self, request: Request) -> Response:
        """Create each task of a batch by itself. Results stand in the order of the tasks."""
        news = new_tasks(json_object(json_body(request, BATCH_BYTES_MAX)), self._horizon())
        key, caller = idempotency_key(request), caller_of(request)
        ids = [
            self.new_id() if key is None else task_id_of(key, n, caller) for n in range(len(news))
        ]
        tasks = {
            task_id: self._task(task_id, new)
            for task_id, new in zip(ids, news, strict=True)
            if isinstance(new, NewTask)
        }
        stored = dict(zip(tasks, self._create_many(caller, list(tasks.values())), strict=True))
        results = [
            create_result(new, task_id, stored[task_id])
            if isinstance(new, NewTask)
            else error_result(new)
            for task_id, new in zip(ids, news, strict=True)
        ]
        return json_response({"results": results})

    def list(self, request: Request) -> Response:
        """A page of tasks, and the cursor of the next one, null at the end."""
        filter = task_filter(query_values(request))
        page = self.store.list(filter)
        tasks = [task_json(task) for task in page.tasks]
        next_page = None if page.next is None else cursor(filter, page.next)
        return json_response({"tasks": tasks, "cursor": next_page})

    def get(self, task_id: str) -> Response:
        return json_response(task_json(self.store.get(path_task_id(task_id))))

    def attempts(self, task_id: str) -> Response:
        task = self.store.get(path_task_id(task_id))
        return json_response({"attempts": [attempt_json(attempt) for attempt in task.attempts]})

    def explain(self, task_id: str) -> Response:
        """Why the task has not run yet."""
        task = self.store.get(path_task_id(task_id))
        has_hint = self.store.has_hint(task) if task.state is TaskState.SCHEDULED else None
        explanation = explain(
            task,
            now_ms=self.clock.now_ms(),
            shard=shard_of(task.id, self.shards),
            heartbeats=self.store.heartbeats(),
            has_hint=has_hint,
            types=HANDLERS,
            takes_writes=self.readiness.takes_writes,
        )
        return json_response(explanation_json(explanation))

    def delete(self, task_id: str) -> Response:
        # By the earliest time it can be: a lease that may still hold is not over.
        now_ms = self.clock.earliest_ms()
        try:
            self.store.delete(path_task_id(task_id), now_ms=now_ms, token=self.new_id())
        except TaskRunning as error:
            raise running_error(error.task, now_ms) from error
        return Response(body="", status_code=HTTPStatus.NO_CONTENT)

    def retry(self, task_id: str, request: Request) -> Response:
        """Run a failed task again. With the same Idempotency-Key it is the same retry."""
        key, caller = idempotency_key(request), caller_of(request)
        task_id = path_task_id(task_id)
        token = self.new_id() if key is None else retry_token_of(key, task_id, caller)
        now_ms = self.clock.now_ms()
        self.wakeups.prepare([now_ms])
        task = self.store.retry(task_id, now_ms=now_ms, token=token)
        self.wakeups.tell([task])
        return json_response(task_json(task))

    def ready(self) -> Response:
        """Whether the store can be used, and how fast it is."""
        return json_response(readiness_json(self.readiness.check()))

    def _task(self, task_id: str, new: NewTask) -> Task:
        return Task.new(
            id=task_id,
            type=new.type,
            send_ts_ms=new.send_ts_ms,
            now_ms=self.clock.now_ms(),
            token=self.new_id(),
            payload=new.payload,
            request_id=REQUEST_ID.get(),
        )

    def _horizon(self) -> Horizon:
        return Horizon(self.limits.horizon_days, self.clock.now_ms())

    def _create(self, caller: str | None, task: Task) -> Task:
        """As the store does, within the caller's limit; processors are told."""
        taken_s = self.create_limit.take(caller, 1)
        self.wakeups.prepare([task.due_at_ms])
        try:
            stored = self.store.create(task)
        except NOT_CREATED:
            self.create_limit.put_back(caller, 1, taken_s)
            raise
        self.wakeups.tell([stored])
        return stored

    def _create_many(
        self, caller: str | None, tasks: Sequence[Task]
    ) -> Sequence[Task | SchedulerError]:
        """The same."""
        taken_s = self.create_limit.take(caller, len(tasks))
        self.wakeups.prepare(task.due_at_ms for task in tasks)
        stored = self.store.create_many(tasks)
        not_created = sum(isinstance(one, NOT_CREATED) for one in stored)
        self.create_limit.put_back(caller, not_created, taken_s)
        self.wakeups.tell(task for task in stored if isinstance(task, Task))
        return stored

    def _raise_if_exists(self, task_id: str) -> None:
        """Look before a create with a key: a repeated one then leaves no rows to sweep."""
        with contextlib.suppress(TaskNotFound):
            raise TaskExists(self.store.get(task_id))


def health() -> Response:
    """The process is up."""
    return json_response({"status": "ok"})


def preflight(methods: Iterable[str]) -> Response:
    """For a browser that asks before it calls. methods: of the path."""
    return Response(
        body="", status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(methods)}
    )


@functools.cache
def openapi() -> Response:
    """The document that describes this API."""
    return json_response(openapi_document())
