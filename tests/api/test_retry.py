"""Run a failed task again."""

import uuid

import pytest
from chalice.test import HTTPResponse

from tests.support.api_service import KEYS, NOW_MS, Service, expect_error, explained
from tests.support.hostile_requests import JSON


def failed(service: Service) -> str:
    """The id of a task that has failed, in the fake's time."""
    task_id: str = service.created()["id"]
    held = service.claim(task_id)
    service.change(task_id, lambda _: held.failed("boom", now_ms=NOW_MS + 7))
    service.clock.tick(1)
    return task_id


def retry(service: Service, task_id: str, key: str | None = None) -> HTTPResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return service.http.post(f"/task/{task_id}/retry", headers=headers)


def test_a_failed_task_is_run_again(service: Service) -> None:
    task_id = failed(service)
    shown = service.http.get(f"/task/{task_id}").json_body
    response = retry(service, task_id)
    assert (response.status_code, list(response.json_body)) == (200, KEYS)
    assert response.json_body == shown | {"state": "scheduled", "finished_ts": None}
    assert (response.json_body["attempt"], response.json_body["error"]) == (1, "boom")
    assert service.http.get(f"/task/{task_id}").json_body == response.json_body
    assert service.listed("state=scheduled")[0] == [task_id]
    assert explained(service, task_id)["reason"] == "NoProcessor"
    held = service.claim(task_id)
    assert (held.attempt, held.failures, held.leases_lost) == (2, 0, 0)
    service.change(task_id, lambda _: held.completed("Baz 1", now_ms=NOW_MS + 1_009))
    attempts = service.http.get(f"/task/{task_id}/attempts").json_body["attempts"]
    assert [one["outcome"] for one in attempts] == ["failed", "completed"]


@pytest.mark.parametrize("state", ["scheduled", "running", "completed", "run again"])
def test_what_has_not_failed_is_not_run_again(service: Service, state: str) -> None:
    if state == "run again":
        task_id = failed(service)
        assert retry(service, task_id).status_code == 200
    else:
        task_id = service.created()["id"]
    if state in ("running", "completed"):
        held = service.claim(task_id)
    if state == "completed":
        service.change(task_id, lambda _: held.completed("Baz 1", now_ms=NOW_MS))
    before = service.tables.tasks[task_id]
    details = expect_error(retry(service, task_id), 409, "TaskNotFailed")
    found = "scheduled" if state == "run again" else state
    assert details == {"id": task_id, "state": found, "field": "state", "expected": "failed"}
    assert service.tables.tasks[task_id] == before


def test_no_task_is_run_again_that_is_not_there(service: Service) -> None:
    task_id = failed(service)
    assert service.http.delete(f"/task/{task_id}").status_code == 204
    for id in (task_id, str(uuid.UUID(int=1)), "1"):
        assert expect_error(retry(service, id), 404, "TaskNotFound") == {"id": id}


def test_a_retry_with_a_key_can_be_sent_again(service: Service) -> None:
    """It is the same one, whatever became of the task, until it is run again by another."""
    task_id, other_id = failed(service), failed(service)
    first = retry(service, task_id, "k")
    assert retry(service, task_id, "k").json_body == first.json_body
    held = service.claim(task_id)
    assert retry(service, task_id, "k").json_body["state"] == "running"
    service.change(task_id, lambda _: held.failed("boom", now_ms=NOW_MS + 2_000))
    again = retry(service, task_id, "k")
    assert (again.status_code, again.json_body["state"]) == (200, "failed")
    assert retry(service, task_id, "k2").json_body["state"] == "scheduled"
    expect_error(retry(service, task_id, "k"), 409, "TaskNotFailed")
    assert retry(service, other_id, "k").json_body["state"] == "scheduled", "a key is of one task"
    details = expect_error(retry(service, task_id, "k\u00e9"), 400, "InvalidRequest")
    assert details["field"] == "Idempotency-Key"


def test_a_retry_takes_no_body_and_minds_none(service: Service) -> None:
    for body in (b"", b"{", b"\xff", b'{"type": "Foo"}'):
        response = service.http.post(f"/task/{failed(service)}/retry", headers=JSON, body=body)
        assert response.json_body["state"] == "scheduled"
