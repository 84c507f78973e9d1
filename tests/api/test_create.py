"""Create and get a task."""

import uuid
from typing import Any

import pytest

from chalicelib.task_types import HANDLERS
from tests.support.api_service import KEYS, NOW, NOW_MS, Service, expect_error


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
        "request_id": response.headers["X-Request-Id"],
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


def test_a_task_shows_its_life(service: Service) -> None:
    task_id = service.created(send_ts="2029-12-31T23:59:59.5Z")["id"]
    service.claim(task_id)
    service.clock.tick(1.5)

    def shown() -> Any:
        task = service.http.get(f"/task/{task_id}").json_body
        assert list(task) == KEYS
        return {key: task[key] for key in KEYS[3:-1]}

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
