"""A client of the scheduler on `requests`, to import or to copy with `answers.py`, its types.

    scheduler = SchedulerClient("http://127.0.0.1:8000")  # , key="schedkey_…"
    task = scheduler.create("Foo", datetime.now(UTC) + timedelta(minutes=5))
    for task in scheduler.list(states=["failed"]):
        print(task["id"], task["error"])

Every call has a timeout and is repeated while that is safe and may help: creates and retries carry
an Idempotency-Key, so that a repeated one finds what the first one made.
"""

import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import requests

from client.answers import Attempt, Explanation, NewTask, State, Stats, Step, Task

BATCH_MAX = 100
RETRIED = frozenset({429, 500, 502, 503, 504})
FIRST_WAIT_S = 0.2
WAIT_MAX_S = 10.0


class ApiError(Exception):
    """What the service refused, in its own words.

    code: the HTTP status, None if there was no answer. type: a stable word. details: by type.
    """

    def __init__(
        self, code: int | None, type: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.type = type
        self.details: Mapping[str, Any] = details or {}

    def __str__(self) -> str:
        told = ", ".join(f"{name}: {value}" for name, value in self.details.items())
        return f"{self.args[0]} ({told})" if told else str(self.args[0])


class NotFound(ApiError):
    """There is no such task, or no longer."""


class Unavailable(ApiError):
    """No usable answer after all tries: what was asked may have been done, or be done later."""


class BearerKey(requests.auth.AuthBase):
    """Sends an API key. As `auth` it goes before a .netrc, and is not sent on to another host."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class SchedulerClient:
    """Calls the API at `base_url`. One for each thread.

    key: the API key, where the service asks for one. timeout_s: for each answer. tries: how often a
    call is sent at most.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout_s: float = 15.0,
        tries: int = 5,
        session: requests.Session | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._auth = BearerKey(key) if key else None
        self._timeout_s = timeout_s
        self._tries = tries
        self._session = session or requests.Session()
        self._sleep = sleep

    def create(
        self,
        type: str,
        send_ts: datetime | str,
        *,
        payload: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Create a task, or get the one that the same key created before."""
        task: Task = self._call(
            "POST", "/task", body=new_task(type, send_ts, payload), key=idempotency_key
        )
        return task

    def create_many(
        self, tasks: Iterable[NewTask], *, idempotency_key: str | None = None
    ) -> Sequence[Task | ApiError]:
        """Create any number of tasks, each for itself: its task or its error, in order."""
        key = idempotency_key or str(uuid.uuid4())
        left, results = iter(tasks), list[Task | ApiError]()
        for number in itertools.count():
            batch = list(itertools.islice(left, BATCH_MAX))
            if not batch:
                return results
            results += self._create_batch(batch, f"{key}/{number}")
        raise AssertionError("counting never ends")

    def show(self, task_id: str) -> Task:
        """Raises NotFound."""
        task: Task = self._call("GET", _path(task_id))
        return task

    def list(
        self,
        *,
        states: Sequence[State] = (),
        types: Sequence[str] = (),
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        newest_first: bool = False,
        page_size: int = 200,
    ) -> Iterator[Task]:
        """All tasks that fit, by send_ts within [since, until), fetched as they are consumed."""
        query: dict[str, Any] = {
            "state": list(states),
            "type": list(types),
            "since": None if since is None else rfc3339(since),
            "until": None if until is None else rfc3339(until),
            "order": "desc" if newest_first else "asc",
            "limit": page_size,
        }
        while True:
            page = self._call("GET", "/task", query=query)
            yield from page["tasks"]
            if page["cursor"] is None:
                return
            query["cursor"] = page["cursor"]

    def delete(self, task_id: str) -> None:
        """Raises NotFound, or ApiError with type TaskRunning and details that tell until when."""
        self._call("DELETE", _path(task_id))

    def retry(self, task_id: str, *, idempotency_key: str | None = None) -> Task:
        """Run a failed task again. Raises NotFound, or ApiError with type TaskNotFailed."""
        task: Task = self._call("POST", _path(task_id, "/retry"), body={}, key=idempotency_key)
        return task

    def attempts(self, task_id: str) -> Sequence[Attempt]:
        """Oldest first. Raises NotFound."""
        answer = self._call("GET", _path(task_id, "/attempts"))
        attempts: Sequence[Attempt] = answer["attempts"]
        return attempts

    def explain(self, task_id: str) -> Explanation:
        """Why the task has not run yet. Raises NotFound."""
        told: Explanation = self._call("GET", _path(task_id, "/explain"))
        return told

    def stats(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        types: Sequence[str] = (),
        step: Step | None = None,
    ) -> Stats:
        """What ran, how late, what waits and who is alive; of the last hour by default."""
        query = {
            "since": None if since is None else rfc3339(since),
            "until": None if until is None else rfc3339(until),
            "type": [*types],
            "step": step,
        }
        told: Stats = self._call("GET", "/stats", query=query)
        return told

    def _create_batch(self, batch: Sequence[NewTask], key: str) -> Sequence[Task | ApiError]:
        """A batch of which a part had no answer is sent again whole: the rest is found again."""
        for left in reversed(range(self._tries)):
            results = self._call("POST", "/tasks", body={"tasks": batch}, key=key)["results"]
            if left == 0 or all(result["status"] not in RETRIED for result in results):
                break
            self._sleep(_wait_s(self._tries - left))
        return [
            result["task"] if "task" in result else _error(result["status"], result["error"])
            for result in results
        ]

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        key: str | None = None,
    ) -> Any:
        """The JSON of the answer. Sent again after a failure that may pass."""
        url, message = self._base_url + path, _message(method, body, key)
        error: ApiError = Unavailable(None, "NoAnswer", "No try was made.")
        for number in range(1, self._tries + 1):
            answer = None
            try:
                answer = self._session.request(
                    method, url, params=query, auth=self._auth, timeout=self._timeout_s, **message
                )
                if answer.ok:
                    return answer.json() if answer.content else None
                error = _error(answer.status_code, _json(answer))
            except requests.RequestException as failure:
                error = self._no_answer(failure)
            if method == "DELETE" and number > 1 and isinstance(error, NotFound):
                return None  # By an earlier try, whose answer was lost.
            if not isinstance(error, Unavailable):
                break
            if number < self._tries:
                self._sleep(_wait_s(number, answer))
        raise error

    def _no_answer(self, failure: Exception) -> Unavailable:
        return Unavailable(None, "NoAnswer", f"{self._base_url} does not answer: {failure}")


def new_task(
    type: str, send_ts: datetime | str, payload: Mapping[str, Any] | None = None
) -> NewTask:
    """A task to create, for `create_many`."""
    task = NewTask(type=type, send_ts=rfc3339(send_ts))
    if payload is not None:
        task["payload"] = payload
    return task


def rfc3339(time: datetime | str) -> str:
    """The time as the API takes it. Raises ValueError if it has no offset."""
    if isinstance(time, str):
        return time
    if time.tzinfo is None:
        raise ValueError(f"{time!r} has no time zone")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _path(task_id: str, part: str = "") -> str:
    return f"/task/{quote(task_id, safe='')}{part}"


def _message(method: str, body: object, key: str | None) -> dict[str, Any]:
    """Headers, and the body of a POST. All tries of a call send the same."""
    headers = {"Accept": "application/json"}
    if method != "POST":
        return {"headers": headers}
    headers["Content-Type"] = "application/json"
    headers["Idempotency-Key"] = key or str(uuid.uuid4())
    return {"headers": headers, "data": json.dumps(body, ensure_ascii=False).encode()}


def _error(status: int, body: object) -> ApiError:
    told = body if isinstance(body, dict) else {}
    kind = NotFound if status == 404 else Unavailable if status in RETRIED else ApiError
    return kind(
        status,
        str(told.get("Type", "UnknownError")),
        str(told.get("Message", f"The answer is {status}, without a reason.")),
        told.get("Details"),
    )


def _json(answer: requests.Response) -> object:
    try:
        return answer.json()
    except requests.RequestException:
        return None


def _wait_s(number: int, answer: requests.Response | None = None) -> float:
    """Before the next try: longer each time, spread, and no shorter than was asked for."""
    wait_s: float = FIRST_WAIT_S * 2 ** (number - 1) * random.uniform(0.5, 1.0)
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return min(WAIT_MAX_S, max(wait_s, float(asked) if asked.isdigit() else 0.0))
