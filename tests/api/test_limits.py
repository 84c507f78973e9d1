"""How far ahead a task may be, and how many of them may be created a minute."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from chalicelib.api.create_limit import CreateLimit
from chalicelib.api.responses import HttpError
from chalicelib.api.settings import ApiSettings
from chalicelib.errors import SchedulerError, StoreBusy
from chalicelib.store.memory import MemoryStore
from chalicelib.task import Task
from tests.support.api_service import Service, expect_error
from tests.support.fakes import FakeClock
from tests.support.hostile_requests import JSON
from tests.support.keys import OLD, OTHER, WRITE, bearer, keyed

TASK = {"type": "Baz", "send_ts": "2030-01-01T00:00:00Z"}


def limited(service: Service, settings: ApiSettings) -> None:
    service.settings = settings
    service.use(service.store)


# HORIZON_DAYS


@pytest.mark.parametrize(
    ("send_ts", "status"),
    [
        ("2030-01-11T00:00:00Z", 201),
        ("2030-01-11T00:00:00.001Z", 400),
        ("2030-01-11T02:00:00+02:00", 201),
        ("9999-12-31T23:59:59Z", 400),
        ("0001-01-01T00:00:00Z", 201),
    ],
)
def test_a_time_beyond_the_horizon_is_refused(service: Service, send_ts: str, status: int) -> None:
    limited(service, ApiSettings(horizon_days=10))
    response = service.create(send_ts=send_ts)
    assert response.status_code == status
    if status == 400:
        details = expect_error(response, 400, "InvalidRequest")
        assert details == {
            "field": "send_ts",
            "got": send_ts,
            "expected": "at most 10 days from now",
        }


def test_in_a_batch_it_keeps_no_other_out(service: Service) -> None:
    limited(service, ApiSettings(horizon_days=10))
    far = TASK | {"send_ts": "2030-02-01T00:00:00Z"}
    results = batch(service, [TASK, far]).json_body["results"]
    assert [result["status"] for result in results] == [201, 400]


def test_without_a_horizon_the_last_year_is_taken(service: Service) -> None:
    assert service.create(send_ts="9999-12-31T23:59:59.999Z").status_code == 201


# CREATES_PER_MINUTE


def batch(service: Service, tasks: list[Any], key: str = "", **headers: str) -> Any:
    sent = {**JSON, **(bearer(key) if key else {}), **headers}
    return service.http.post("/tasks", headers=sent, body=json.dumps({"tasks": tasks}).encode())


def create(service: Service, key: str, **headers: str) -> Any:
    sent = {**JSON, **bearer(key), **headers}
    return service.http.post("/task", headers=sent, body=json.dumps(TASK).encode())


def test_a_name_that_has_created_enough_waits(service: Service) -> None:
    limited(service, keyed(creates_per_minute=2))
    assert [create(service, key).status_code for key in (WRITE, OLD)] == [201, 201]
    service.clock.tick(20.5)
    response = create(service, WRITE)
    details = expect_error(response, 429, "TooManyRequests")
    wait_s = details["retry_after_s"]
    assert response.headers["Retry-After"] == str(wait_s)
    assert 39 <= wait_s <= 40
    assert create(service, OTHER).status_code == 201, "another name has a limit of its own"
    assert len(service.tables.tasks) == 3
    service.clock.tick(wait_s)
    assert create(service, WRITE).status_code == 201


def test_what_is_refused_and_what_is_replayed_does_not_count(service: Service) -> None:
    limited(service, keyed(creates_per_minute=3))
    key = {"Idempotency-Key": "k"}
    assert create(service, WRITE, **key).status_code == 201
    assert [create(service, WRITE, **key).status_code for _ in range(5)] == [200] * 5
    assert batch(service, [{"type": "Qux"}] * 5, WRITE).status_code == 200
    for _ in range(3):
        assert batch(service, [TASK], WRITE, **key).status_code == 200
    assert create(service, WRITE).status_code == 201
    assert create(service, WRITE).status_code == 429
    assert create(service, WRITE, **key).status_code == 200, "it is there already"


def test_what_the_store_was_not_asked_for_does_not_count(service: Service) -> None:
    class Busy(MemoryStore):
        is_busy = True

        def create(self, task: Task) -> Task:
            if self.is_busy:
                raise StoreBusy
            return super().create(task)

        def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
            return [StoreBusy()] * len(tasks)

    limited(service, ApiSettings(creates_per_minute=1))
    store = service.use(Busy(service.tables))
    for _ in range(3):
        assert service.create().status_code == 503
        assert [r["status"] for r in batch(service, [TASK]).json_body["results"]] == [503]
    store.is_busy = False
    assert [service.create().status_code for _ in range(2)] == [201, 429]


def test_a_batch_is_let_in_whole_and_what_is_beyond_is_waited_for(service: Service) -> None:
    limited(service, ApiSettings(creates_per_minute=10))
    assert len(batch(service, [TASK] * 50).json_body["results"]) == 50
    details = expect_error(batch(service, [TASK]), 429, "TooManyRequests")
    assert details["expected"] == "at most 10 tasks a minute"
    service.clock.tick(details["retry_after_s"])
    assert batch(service, [TASK]).status_code == 200


def test_it_is_off_by_default(service: Service) -> None:
    for _ in range(3):
        assert batch(service, [TASK] * 100).status_code == 200


def test_in_no_minute_there_are_more() -> None:
    clock = FakeClock()
    limit, taken = CreateLimit(7, clock), list[float]()
    for _ in range(600):
        try:
            limit.take("a", 1)
            taken.append(clock.monotonic_s())
        except HttpError as error:
            assert 1 <= int((error.headers or {})["Retry-After"]) <= 60
        clock.tick(0.7)
    assert len(taken) >= 7 * 6
    for n, at_s in enumerate(taken[7:]):
        assert at_s - taken[n] > 59
