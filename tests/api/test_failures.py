"""The response that each error gets."""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import app as entry
from chalicelib import errors, times
from chalicelib.api.failures import STATUS_BY_ERROR, running_error
from chalicelib.errors import GOT_CHARS_MAX
from chalicelib.store.alternator import outcome
from chalicelib.store.memory import MemoryStore, Tables
from chalicelib.task import Task, TaskState
from tests.support.api_service import NOW_MS, Service, expect_error
from tests.support.hostile_requests import JSON


class Failing(MemoryStore):
    """Raises `error` in every call; a create is made all the same."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Tables())
        self.error = error

    def create(self, task: Task) -> Task:
        super().create(task)
        raise self.error

    def get(self, task_id: str) -> Task:
        raise self.error

    def list(self, filter: Any) -> Any:
        raise self.error

    def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        raise self.error

    def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        raise self.error

    def check(self) -> None:
        raise self.error


CALLS = [
    ("GET", "/task"),
    ("GET", f"/task/{uuid.UUID(int=1)}"),
    ("GET", f"/task/{uuid.UUID(int=1)}/attempts"),
    ("GET", f"/task/{uuid.UUID(int=1)}/explain"),
    ("DELETE", f"/task/{uuid.UUID(int=1)}"),
    ("POST", f"/task/{uuid.UUID(int=1)}/retry"),
]


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/ready")])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.StoreUnavailable("no 10.0.0.1", cause="x"), "The store does not answer."),
        (
            outcome.failure("AccessDeniedException", "denied to role secret", 400),
            "The store does not answer.",
        ),
        (errors.StoreMismatch("A table is missing."), "A table is missing."),
        (errors.UnreadableTask("It is new."), "It is new."),
    ],
)
def test_without_the_store_a_call_is_503(
    service: Service, method: str, path: str, error: errors.SchedulerError, message: str
) -> None:
    service.use(Failing(error))
    response = service.http.request(method, path)
    assert expect_error(response, 503, type(error).__name__) == {}
    assert response.headers["Retry-After"] == "1"
    assert response.json_body["Message"] == message


@pytest.mark.parametrize("key", [None, "k"])
def test_a_create_of_unknown_outcome_tells_the_id(service: Service, key: str | None) -> None:
    store = service.use(Failing(errors.StoreUnavailable()))
    response = service.create(key=key)
    details = expect_error(response, 503, "StoreUnavailable")
    assert response.headers["Retry-After"] == "1"
    if key is None:
        assert list(store.tables.tasks) == [details["id"]]
    service.use(service.store)
    if key is not None:
        assert service.create(key=key).json_body["id"] == details["id"]


def test_a_create_whose_answer_was_lost_is_replayed_by_its_key(service: Service) -> None:
    class LosesAnswer(MemoryStore):
        def create(self, task: Task) -> Task:
            super().create(task)
            raise errors.StoreUnavailable

    service.use(LosesAnswer(service.tables))
    lost = expect_error(service.create(key="k"), 503, "StoreUnavailable")
    again = service.create(key="k")
    assert (again.status_code, again.json_body["id"]) == (200, lost["id"])


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), errors.InvalidSetting("secret")])
def test_an_unexpected_error_is_500_and_only_the_log_knows_it(
    service: Service, method: str, path: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service.use(Failing(error))
    response = service.http.request(method, path)
    details = expect_error(response, 500, "InternalError")
    assert "secret" not in str(response.body)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert details["error_id"] in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_what_chalice_itself_breaks_has_our_shape(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry.app.routes["/health"]["GET"], "view_function", lambda: 1 / 0)
    expect_error(service.http.get("/health"), 500, "InternalError")


def tree(error: type[errors.SchedulerError]) -> Iterator[type[errors.SchedulerError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


def test_every_error_has_a_status() -> None:
    domain = {error for error in tree(errors.SchedulerError) if error.__module__ == errors.__name__}
    assert set(STATUS_BY_ERROR) == domain


def test_an_invalid_request_tells_what_came_and_what_is_expected(service: Service) -> None:
    def told(**fields: Any) -> Any:
        return expect_error(service.create(**fields), 400, "InvalidRequest")

    assert told(type="foo") == {"field": "type", "got": "foo", "expected": "one of Bar, Baz, Foo"}
    assert told(type=None)["got"] == "null"
    assert told(delay=1) == {"field": "delay", "expected": "type, send_ts, payload"}
    assert told(payload=1) == {"field": "payload", "got": "1", "expected": "a JSON object"}
    assert told(payload={"a": 1}) == {"field": "payload.a", "expected": "no payload"}
    naive = told(send_ts="2030-01-01T00:00:00")
    assert naive == {
        "field": "send_ts",
        "got": "2030-01-01T00:00:00",
        "expected": times.TIME_EXPECTED,
    }
    assert len(told(send_ts="x" * 10_000)["got"]) == GOT_CHARS_MAX
    assert "leap second" in service.create(send_ts="2016-12-31T23:59:60Z").json_body["Message"]
    plus = service.http.get("/task?since=2030-01-01T00:00:00+02:00")
    assert "%2B" in plus.json_body["Message"]


def test_method_not_allowed_tells_the_allowed_ones(service: Service) -> None:
    response = service.http.put("/task")
    assert expect_error(response, 405, "MethodNotAllowed")["method"] == "PUT"
    assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}


@pytest.mark.parametrize(("wait_s", "retry_after"), [(0.2, "1"), (3.2, "4"), (500.0, "30")])
def test_a_busy_store_is_told_with_when_to_try_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, wait_s: float, retry_after: str
) -> None:
    def busy(*arguments: object) -> None:
        raise errors.StoreBusy("the line is long", wait_s=wait_s)

    monkeypatch.setattr(service.store, "create", busy)
    body = b'{"type": "Baz", "send_ts": "2030-01-01T00:00:00Z"}'
    response = service.http.post("/task", headers=JSON, body=body)
    expect_error(response, 503, "StoreBusy")
    assert response.headers["Retry-After"] == retry_after
    assert response.json_body["Details"] == {}, "it was not created: there is no id to look for"


def test_a_running_task_without_a_lease_shown_has_no_retry_after() -> None:
    task = Task.new(id="i", type="Foo", send_ts_ms=0, now_ms=0, token="t")
    error = running_error(replace(task, state=TaskState.RUNNING, due_at_ms=None), NOW_MS)
    assert not error.headers
