"""Creates with an Idempotency-Key."""

import json
import threading

import pytest
from chalice.app import Request

from chalicelib.api.endpoints import Api
from chalicelib.store.memory import MemoryStore
from chalicelib.task import Task
from tests.support.api_service import NOW, Service, expect_error, lambda_event
from tests.support.hostile_requests import JSON


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
