"""The views, through Chalice and on the store in memory."""

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from chalice.app import Request
from chalice.test import Client

import app as entry
from chalicelib import errors, times
from chalicelib.api.endpoints import Api
from chalicelib.api.failures import PUBLIC_MESSAGE, STATUS_BY_ERROR, running_error
from chalicelib.api.readiness import WRITE_CHECK_EVERY_S
from chalicelib.api.request import BODY_BYTES_MAX
from chalicelib.attempts import LEASE_MS
from chalicelib.config import Settings
from chalicelib.errors import GOT_CHARS_MAX
from chalicelib.processing import tick
from chalicelib.store.alternator import outcome
from chalicelib.store.contract import Heartbeat, Pressure
from chalicelib.store.memory import MemoryStore, Tables
from chalicelib.task import Task, TaskState
from chalicelib.task_types import HANDLERS
from local.settings import ROOT
from tests.support.api_service import KEYS, NOW, NOW_MS, Service, expect_error
from tests.support.hostile_requests import HOSTILE, JSON, Hostile


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    monkeypatch.setattr(entry, "service", lambda: service.api)
    yield service


def lambda_event(**given: Any) -> dict[str, Any]:
    """POST /task, as API Gateway hands it to Lambda."""
    return {
        "requestContext": {"httpMethod": "POST", "resourcePath": "/task"},
        "pathParameters": None,
        "multiValueQueryStringParameters": None,
        "stageVariables": None,
        **given,
    }


# Create and get


def test_create_answers_with_the_task_and_where_it_is(service: Service) -> None:
    response = service.create(type="Foo", send_ts="2030-01-02T00:00:00Z")
    task = response.json_body
    assert response.status_code == 201
    assert response.headers["Location"] == f"/task/{task['id']}"
    assert response.headers["Content-Type"] == "application/json"
    assert list(task) == KEYS
    assert str(uuid.UUID(task["id"])) == task["id"]
    assert task == dict.fromkeys(KEYS) | {
        "id": task["id"],
        "type": "Foo",
        "send_ts": "2030-01-02T00:00:00.000Z",
        "state": "scheduled",
        "attempt": 0,
        "created_ts": NOW,
    }
    assert service.http.get(f"/task/{task['id']}").json_body == task


def test_every_registered_type_can_be_created(service: Service) -> None:
    assert {service.created(type=type)["type"] for type in HANDLERS} == set(HANDLERS)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01t00:00:00z", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00.000Z"),
        ("2029-12-31T18:30:00-05:30", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01T23:59:00+23:59", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01T00:00:00-00:00", "2030-01-01T00:00:00.000Z"),
        ("2030-01-01T00:00:00.5Z", "2030-01-01T00:00:00.500Z"),
        ("2030-01-01T00:00:00.123Z", "2030-01-01T00:00:00.123Z"),
        ("2030-01-01T00:00:00.123000000000000Z", "2030-01-01T00:00:00.123Z"),
        ("2030-01-01T00:00:00.1230000000000001Z", "2030-01-01T00:00:00.124Z"),
        ("2030-01-01T00:00:00.9999Z", "2030-01-01T00:00:01.000Z"),
        ("1969-12-31T23:59:59.0001Z", "1969-12-31T23:59:59.001Z"),
        ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("2030-01-01T00:00:00." + "0" * 5000 + "1Z", "2030-01-01T00:00:00.001Z"),
    ],
)
def test_send_ts_is_kept_in_utc_and_never_early(service: Service, given: str, kept: str) -> None:
    assert service.created(send_ts=given)["send_ts"] == kept


def test_the_past_is_accepted_and_due_now(service: Service) -> None:
    task = service.created(send_ts="1999-12-31T23:59:59Z")
    assert service.tables.tasks[task["id"]].due_at_ms == NOW_MS


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
    ],
)
def test_json_may_be_announced_in_these_ways(service: Service, content_type: str) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW}).encode()
    response = service.http.post("/task", headers={"content-type": content_type}, body=body)
    assert response.status_code == 201


def test_a_body_of_exactly_64_kib_is_read(service: Service) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW}).encode().rjust(BODY_BYTES_MAX)
    assert service.http.post("/task", headers=JSON, body=body).status_code == 201


def test_other_calls_take_any_content_type(service: Service) -> None:
    task = service.created()
    odd = {"Content-Type": "text/plain"}
    assert service.http.get("/task", headers=odd).status_code == 200
    assert service.http.get(f"/task/{task['id']}", headers=odd).status_code == 200
    assert service.http.delete(f"/task/{task['id']}", headers=odd).status_code == 204


def test_a_task_shows_its_life(service: Service) -> None:
    task_id = service.created(send_ts="2029-12-31T23:59:59.5Z")["id"]
    service.claim(task_id)
    service.clock.tick(1.5)

    def shown() -> Any:
        task = service.http.get(f"/task/{task_id}").json_body
        assert list(task) == KEYS
        return {key: task[key] for key in KEYS[3:]}

    running = {
        "state": "running",
        "processor": "p",
        "attempt": 1,
        "created_ts": NOW,
        "started_ts": NOW,
        "finished_ts": None,
        "lateness_ms": 500,
        "result": None,
        "error": None,
    }
    assert shown() == running
    held = service.tables.tasks[task_id]
    now_ms = service.clock.now_ms()
    service.change(task_id, lambda t: t.failed_once("boom", now_ms=now_ms, jitter=lambda: 0))
    assert shown() == running | {"state": "scheduled", "error": "boom"}
    service.change(task_id, lambda _: held.completed("Baz 17", now_ms=now_ms))
    done = {"state": "completed", "finished_ts": "2030-01-01T00:00:01.500Z", "result": "Baz 17"}
    assert shown() == running | done


def test_get_of_a_deleted_task_is_404(service: Service) -> None:
    task_id = service.created()["id"]
    assert service.http.delete(f"/task/{task_id}").status_code == 204
    details = expect_error(service.http.get(f"/task/{task_id}"), 404, "TaskNotFound")
    assert details == {"id": task_id}


# Delete


def test_delete_answers_with_nothing_and_happens_once(service: Service) -> None:
    task_id = service.created()["id"]
    response = service.http.delete(f"/task/{task_id}")
    assert (response.status_code, response.body) == (204, b"")
    expect_error(service.http.delete(f"/task/{task_id}"), 404, "TaskNotFound")


def test_delete_of_a_running_task_tells_when_to_try_again(service: Service) -> None:
    task_id = service.created()["id"]
    service.claim(task_id)
    service.clock.tick(2.5)
    response = service.http.delete(f"/task/{task_id}")
    details = expect_error(response, 409, "TaskRunning")
    assert details == {"id": task_id, "attempt": 1, "processor": "p", "retry_after_s": 8}
    assert response.headers["Retry-After"] == "8"
    service.clock.tick(LEASE_MS / 1000 - 2.5)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


def hear(service: Service, by_ms: int = 60_000) -> None:
    """The store answers a few times; then this machine's clock is set, or is wrong from now on."""
    for _ in range(21):
        dated = formatdate((NOW_MS + service.clock.elapsed_s * 1000) // 1000, usegmt=True)
        service.api.clock.node("a").hear(dated.encode(), service.clock.monotonic_s(), is_exact=True)
        service.clock.tick(0.05)
    service.clock.start_ms += by_ms


@pytest.mark.parametrize("before_s, after_s", [(60, 0), (0, 60), (0, 0.9)])
def test_a_clock_that_is_ahead_deletes_no_running_task(
    service: Service, before_s: float, after_s: float
) -> None:
    service.clock.start_ms += round(before_s * 1000)
    hear(service, round(after_s * 1000))
    task_id = service.created()["id"]
    held = service.claim(task_id)
    lease_ms = NOW_MS + round(service.clock.elapsed_s * 1000) + LEASE_MS
    service.change(task_id, lambda _: replace(held, due_at_ms=lease_ms))
    service.clock.tick(LEASE_MS / 1000 - 0.5)
    details = expect_error(service.http.delete(f"/task/{task_id}"), 409, "TaskRunning")
    assert details["retry_after_s"] == 1
    service.clock.tick(0.7)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


def test_a_lease_that_may_still_hold_is_not_over(service: Service) -> None:
    """All that one Date tells is the second; the wall clock may be right, or ahead."""
    dated = formatdate(NOW_MS // 1000 + 10, usegmt=True).encode()
    task_id = service.created()["id"]
    service.claim(task_id)
    service.clock.tick(LEASE_MS / 1000 + 0.4)
    service.api.clock.node("a").hear(dated, service.clock.monotonic_s(), is_exact=True)
    service.change(task_id, lambda held: replace(held, due_at_ms=NOW_MS + LEASE_MS + 300))
    expect_error(service.http.delete(f"/task/{task_id}"), 409, "TaskRunning")
    service.clock.tick(0.4)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


@pytest.mark.parametrize("off_s", [60, -60])
def test_a_task_in_the_past_is_due_at_once_whatever_the_clock_shows(
    service: Service, off_s: int
) -> None:
    hear(service, off_s * 1000)
    task = service.created(send_ts="2029-12-31T23:59:00Z")
    now_ms = NOW_MS + service.clock.elapsed_s * 1000
    assert abs((service.tables.tasks[task["id"]].due_at_ms or 0) - now_ms) <= 60


def test_a_finished_task_can_be_deleted(service: Service) -> None:
    task_id = service.created()["id"]
    held = service.claim(task_id)
    service.change(task_id, lambda _: held.completed("Baz 1", now_ms=NOW_MS))
    assert service.http.delete(f"/task/{task_id}").status_code == 204
    assert service.listed() == ([], None)


# List


def test_list_is_ordered_by_time_then_id_whatever_the_order_of_creation(service: Service) -> None:
    seconds = [3, 1, 2, 1]
    tasks = [service.created(send_ts=f"2030-01-01T00:00:0{second}Z") for second in seconds]
    in_order = [task["id"] for task in sorted(tasks, key=lambda t: (t["send_ts"], t["id"]))]
    assert service.listed() == (in_order, None)
    assert service.listed("order=asc") == (in_order, None)
    assert service.listed("order=desc") == (in_order[::-1], None)


def test_list_filters_by_state_type_and_time(service: Service) -> None:
    a = service.created(type="Foo", send_ts="2029-12-31T23:00:00Z")["id"]
    b = service.created(type="Bar", send_ts="2029-12-31T23:00:01Z")["id"]
    c = service.created(type="Baz", send_ts="2029-12-31T23:00:02Z")["id"]
    service.change(a, lambda _: service.claim(a).completed("Foo", now_ms=NOW_MS))
    service.claim(b)
    assert service.listed("state=completed")[0] == [a]
    assert service.listed("state=running&state=scheduled")[0] == [b, c]
    assert service.listed("state=running&state=running")[0] == [b]
    assert service.listed("state=failed")[0] == []
    assert service.listed("type=Foo&type=Baz")[0] == [a, c]
    assert service.listed("type=Foo&state=running")[0] == []
    assert service.listed("since=2029-12-31T23:00:01Z")[0] == [b, c]
    assert service.listed("until=2029-12-31T23:00:01Z")[0] == [a]
    assert service.listed("since=2029-12-31T23:00:00Z&until=2029-12-31T23:00:02Z")[0] == [a, b]
    assert service.listed("since=2029-12-31T23:00:01Z&until=2029-12-31T23:00:01Z")[0] == []
    assert service.listed("since=2029-12-31T23:00:00.0001Z&limit=1000")[0] == [b, c]
    assert service.listed("since=2030-01-01T01:00:01%2B02:00&order=desc")[0] == [c, b]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_walk_of_pages_sees_every_task_once(service: Service, order: str) -> None:
    for second in [1, 1, 1, 2, 3, 5, 8]:
        service.created(send_ts=f"2030-01-01T00:00:0{second}Z")
    everything, end = service.listed(f"order={order}")
    assert end is None
    seen, query = [], f"order={order}&limit=2&type=Baz"
    page, cursor = service.listed(query)
    while cursor is not None:
        seen += page
        page, cursor = service.listed(f"{query}&cursor={cursor}")
    assert seen + page == everything


def test_by_default_a_page_has_50_tasks(service: Service) -> None:
    for _ in range(51):
        service.created()
    page, cursor = service.listed()
    assert len(page) == 50
    assert cursor is not None
    assert len(service.listed(f"cursor={cursor}")[0]) == 1
    assert len(service.listed("limit=1000")[0]) == 51


@pytest.fixture
def cursor(service: Service) -> str:
    for _ in range(3):
        service.created()
    cursor = service.listed("limit=1&state=scheduled&type=Foo&type=Baz")[1]
    assert cursor is not None
    return cursor


def test_a_cursor_holds_for_the_same_filter_in_other_words(service: Service, cursor: str) -> None:
    page, _ = service.listed(f"limit=7&type=Baz&type=Foo&type=Foo&state=scheduled&cursor={cursor}")
    assert len(page) == 2


@pytest.mark.parametrize(
    "query",
    [
        "",
        "type=Foo&type=Baz",
        "state=scheduled",
        "state=scheduled&type=Foo",
        "state=scheduled&type=Foo&type=Baz&order=desc",
        "state=scheduled&type=Foo&type=Baz&since=2020-01-01T00:00:00Z",
        "state=scheduled&type=Foo&type=Baz&until=2040-01-01T00:00:00Z",
    ],
)
def test_a_cursor_of_another_list_is_refused(service: Service, cursor: str, query: str) -> None:
    response = service.http.get(f"/task?{query}&cursor={cursor}")
    assert expect_error(response, 400, "InvalidRequest")["field"] == "cursor"


def test_a_cursor_with_any_character_changed_is_refused(service: Service, cursor: str) -> None:
    damaged = [cursor[:i] + c + cursor[i + 1 :] for i in range(len(cursor)) for c in "aZ9_"]
    for text in [*damaged, cursor[:-1], cursor + "A", cursor + "=", cursor * 2]:
        if text != cursor:
            query = f"state=scheduled&type=Foo&type=Baz&cursor={text}"
            expect_error(service.http.get(f"/task?{query}"), 400, "InvalidRequest")


# Idempotency-Key


def test_the_same_key_and_body_is_the_same_task(service: Service) -> None:
    first = service.create(key="order 17", send_ts="2030-01-01T01:00:00Z")
    again = service.create(key="order 17", send_ts="2030-01-01T02:00:00.000+01:00")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json_body == first.json_body
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert service.create(key="order 18").json_body["id"] != first.json_body["id"]
    assert service.create().json_body["id"] != first.json_body["id"]
    assert len(service.tables.tasks) == 3


def test_a_replay_shows_the_task_as_it_is_by_now(service: Service) -> None:
    task_id = service.created(key="k")["id"]
    service.claim(task_id)
    assert service.create(key="k").json_body["state"] == "running"


@pytest.mark.parametrize(
    "other", [{"type": "Foo"}, {"send_ts": "2030-01-01T00:00:00.001Z"}, {"payload": {}}]
)
def test_the_same_key_with_another_body_is_422(service: Service, other: dict[str, str]) -> None:
    service.created(key="k")
    details = expect_error(service.create(key="k", **other), 422, "IdempotencyKeyReused")
    assert details["field"] == "Idempotency-Key"
    assert len(service.tables.tasks) == 1


def test_a_key_does_not_bring_back_a_deleted_task(service: Service) -> None:
    task_id = service.created(key="k")["id"]
    service.http.delete(f"/task/{task_id}")
    assert expect_error(service.create(key="k"), 409, "TaskDeleted")["id"] == task_id
    assert service.listed() == ([], None)


def test_a_refused_body_uses_no_key(service: Service) -> None:
    assert service.create(key="k", type="Qux").status_code == 400
    assert service.create(key="k").status_code == 201


def test_of_many_creates_with_a_key_at_once_one_makes_the_task(service: Service) -> None:
    """Api is called directly: chalice.test.Client is not for threads."""
    barrier = threading.Barrier(8)
    answers = []

    class Together(MemoryStore):
        def get(self, task_id: str) -> Task:
            try:
                return super().get(task_id)
            finally:
                barrier.wait()  # All have looked before any creates.

    together = Api(Together(service.tables), service.clock, service.api.new_id)

    request = Request(
        lambda_event(
            headers={**JSON, "Idempotency-Key": "k"},
            body=json.dumps({"type": "Foo", "send_ts": NOW}),
        )
    )

    def create() -> None:
        answers.append(together.create(request))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.body for answer in answers}) == 1
    assert len(service.tables.tasks) == 1


# Headers and ids in several spellings


HEADER_BODY = json.dumps({"type": "Foo", "send_ts": NOW})


def sent(**headers: list[str]) -> Any:
    """POST /task with several values for a header, as API Gateway tells it: the last one too."""
    given = {name.replace("_", "-"): values for name, values in headers.items()}
    last = {name: values[-1] for name, values in given.items()}
    event = lambda_event(headers=last, multiValueHeaders=given, body=HEADER_BODY)
    answer = entry.app(event, None)
    return answer["statusCode"], json.loads(answer["body"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Idempotency-Key", ["a", "b"]),
        ("Idempotency-Key", ["", "b"]),
        ("Content-Type", ["application/json", "text/plain"]),
        ("Content-Type", ["text/plain", "application/json"]),
    ],
)
def test_a_header_with_two_values_is_400(service: Service, name: str, values: list[str]) -> None:
    headers = {"Content_Type": ["application/json"]} | {name.replace("-", "_"): values}
    status, error = sent(**headers)
    assert (status, error["Type"]) == (400, "InvalidRequest")
    assert error["Details"] == {"field": name, "got": ", ".join(values), "expected": "one value"}
    assert service.tables.tasks == {}


def test_a_header_twice_with_one_value_is_that_value(service: Service) -> None:
    keys = ["k", " k", "k"]
    status, task = sent(content_type=["application/json"] * 2, idempotency_KEY=keys)
    assert (status, task["id"]) == (201, service.create(key="k", type="Foo").json_body["id"])


@pytest.mark.parametrize(
    "spelled",
    [
        lambda id: id.upper(),
        lambda id: id.replace("-", "%2D"),
        lambda id: id.replace("-", "%2d"),
        lambda id: "".join(f"%{ord(c):02X}" for c in id.upper()),
    ],
)
def test_an_id_is_found_however_it_is_spelled(
    service: Service, spelled: Callable[[str], str]
) -> None:
    id = service.created()["id"]
    path = f"/task/{spelled(id)}"
    assert service.http.get(path).json_body["id"] == id
    assert service.http.get(f"{path}/attempts").json_body == {"attempts": []}
    assert service.http.get(f"{path}/explain").json_body["id"] == id
    assert service.http.delete(path).status_code == 204
    assert expect_error(service.http.get(path), 404, "TaskNotFound") == {"id": id}


# Failures


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


@pytest.mark.parametrize(("body", "is_base64"), [("\ud800", False), ("no base64", True)])
def test_a_body_that_lambda_cannot_decode_is_400(
    service: Service, body: str, is_base64: bool
) -> None:
    answer = entry.app(lambda_event(headers=JSON, body=body, isBase64Encoded=is_base64), None)
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"])["Details"]["field"] == "body"


def test_a_body_that_lambda_hands_over_as_text_is_read(service: Service) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW})
    assert entry.app(lambda_event(headers=JSON, body=body), None)["statusCode"] == 201


def tree(error: type[errors.SchedulerError]) -> Iterator[type[errors.SchedulerError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


def test_every_error_has_a_status() -> None:
    domain = {error for error in tree(errors.SchedulerError) if error.__module__ == errors.__name__}
    assert set(STATUS_BY_ERROR) == domain


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if h.client], ids=lambda h: h.name)
def test_hostile_requests(service: Service, hostile: Hostile) -> None:
    response = service.http.request(
        hostile.method, hostile.target, headers=hostile.headers, body=hostile.body
    )
    details = expect_error(response, hostile.status, hostile.type)
    if hostile.field is not None:
        assert details["field"] == hostile.field
    assert all(len(str(value)) <= 150 for value in details.values())
    assert len(response.body) < 1000
    assert service.tables.tasks == {}


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


# Health, the making of the service, the tick, and the entry point


def test_health_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "service", None)
    response = Client(entry.app, project_dir=str(ROOT)).http.get("/health")
    assert (response.status_code, response.json_body) == (200, {"status": "ok"})


def test_ready_asks_the_store(service: Service) -> None:
    response = service.http.get("/ready")
    expected = {"status": "ok", "store": "ok", "latency_ms": 0}
    assert (response.status_code, response.json_body) == (200, expected)


class TakesNoWrites(MemoryStore):
    """As a store whose disk is full. asked: how often a write was tried."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.error: errors.StoreUnavailable | None = errors.StoreReadOnly("the disk is full")
        self.asked = 0

    def check_writes(self) -> None:
        self.asked += 1
        if self.error:
            raise self.error


def test_ready_tells_that_the_store_takes_no_writes_and_asks_seldom(service: Service) -> None:
    store = service.use(TakesNoWrites(service.tables))
    for _ in range(3):
        response = service.http.get("/ready")
        assert expect_error(response, 503, "StoreReadOnly") == {}
        assert response.json_body["Message"] == PUBLIC_MESSAGE[errors.StoreReadOnly]
        assert response.headers["Retry-After"] == "1"
    assert store.asked == 1
    store.error = None
    service.clock.tick(WRITE_CHECK_EVERY_S)
    assert [service.http.get("/ready").status_code for _ in range(3)] == [200] * 3
    assert store.asked == 2


def test_explain_does_not_take_silence_for_death_while_nobody_can_write(service: Service) -> None:
    store = service.use(TakesNoWrites(service.tables))
    path = f"/task/{service.created()['id']}/explain"
    service.clock.tick(5)
    told = service.http.get(path).json_body
    assert told["reason"] == "StoreReadOnly"
    assert "no processor is alive" not in told["message"]
    assert service.http.get(path).json_body["reason"] == "StoreReadOnly"
    assert store.asked == 1
    service.clock.tick(WRITE_CHECK_EVERY_S)
    store.error = errors.StoreBusy("the line is long")
    assert service.http.get(path).json_body["reason"] == "NoProcessor"
    service.clock.tick(WRITE_CHECK_EVERY_S)
    beat_ms = service.clock.now_ms()
    beat = Heartbeat(processor="p", kind="worker", beat_ms=beat_ms)
    service.tables.heartbeats["p"] = beat
    assert service.http.get(path).json_body["reason"] == "WaitingForProcessor"
    assert store.asked == 2, "whoever beats can write"


def test_ready_tells_that_the_store_is_slow(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Pressure(requests=1.5, latency_s=0.25, delay_s=0.2)
    monkeypatch.setattr(service.store, "pressure", lambda: slow)
    response = service.http.get("/ready")
    expected = {"status": "ok", "store": "slow", "latency_ms": 250}
    assert (response.status_code, response.json_body) == (200, expected)


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


def test_the_service_is_made_once_and_verified_until_it_was_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from chalicelib.store.alternator.store import AlternatorTaskStore

    made: list[Settings] = []
    outcomes: Iterator[Exception | None] = itertools.chain(
        [errors.StoreMismatch("The table is not there.")], itertools.repeat(None)
    )
    checks = []

    class Checked(MemoryStore):
        def check(self) -> None:
            checks.append(outcome := next(outcomes))
            if outcome:
                raise outcome

    def connect(settings: Settings, clock: object) -> MemoryStore:
        made.append(settings)
        return Checked(Tables())

    monkeypatch.setattr(AlternatorTaskStore, "connect", connect)
    entry._made.cache_clear()
    try:
        http = Client(entry.app, project_dir=str(ROOT)).http
        refused = http.get("/task")
        expect_error(refused, 503, "StoreMismatch")
        assert refused.json_body["Message"] == "The table is not there."
        assert [http.get("/task").status_code for _ in range(3)] == [200, 200, 200]
    finally:
        entry._made.cache_clear()
    assert len(made) == 1
    assert len(checks) == 2


def test_a_setting_that_cannot_be_used_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHARDS", "many")
    entry._made.cache_clear()
    response = Client(entry.app, project_dir=str(ROOT)).http.get("/task")
    expect_error(response, 500, "InternalError")
    assert "SHARDS" in caplog.text


def test_the_tick_has_the_time_that_lambda_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 59_000

    def run(*, remaining_ms: Callable[[], int]) -> dict[str, int]:
        return {"remaining_ms": remaining_ms()}

    monkeypatch.setattr(tick, "run", run)
    event = {
        "version": "0",
        "account": "0",
        "region": "us-east-1",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": NOW,
        "id": "1",
        "resources": [],
    }
    assert entry.app.handler_map["tick"](event, Context()) == {"remaining_ms": 59_000}


def test_config_leaves_the_environment_to_the_shell() -> None:
    text = (ROOT / ".chalice" / "config.json").read_text()
    assert "environment_variables" not in text
    config = json.loads(text)
    assert config["app_name"] == "scheduler"
    assert set(config["stages"]) == {"dev", "prod"}
    assert config["lambda_functions"]["tick"]["lambda_timeout"] == 60


@pytest.mark.wall_clock
def test_importing_the_app_takes_no_environment_and_no_client() -> None:
    heavy = {"boto3", "chalice.local", "aiohttp", "local"}
    code = f"import app, sys; print({heavy} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (answer.stdout, answer.stderr) == ("set()\n", "")


def test_rfc3339_and_back() -> None:
    for ms in [-62_135_596_800_000, -1, 0, 1, NOW_MS, 253_402_300_799_999]:
        assert times.parsed_ms(times.rfc3339(ms)) == ms


def test_a_running_task_without_a_lease_shown_has_no_retry_after() -> None:
    task = Task.new(id="i", type="Foo", send_ts_ms=0, now_ms=0, token="t")
    error = running_error(replace(task, state=TaskState.RUNNING, due_at_ms=None), NOW_MS)
    assert not error.headers
