"""Create many tasks by one request."""

import json
from typing import Any

from chalicelib import errors
from chalicelib.store.memory import MemoryStore
from chalicelib.task import Task
from tests.support.api_service import KEYS, NOW, Service
from tests.support.hostile_requests import JSON


def batch(service: Service, tasks: list[object], key: str | None = None) -> list[Any]:
    headers = JSON if key is None else {**JSON, "Idempotency-Key": key}
    body = json.dumps({"tasks": tasks}).encode()
    response = service.http.post("/tasks", headers=headers, body=body)
    assert response.status_code == 200, response.body
    assert list(response.json_body) == ["results"]
    results: list[Any] = response.json_body["results"]
    assert len(results) == len(tasks)
    return results


GOOD = {"type": "Baz", "send_ts": NOW}


def test_a_batch_creates_its_tasks_in_order(service: Service) -> None:
    times = [f"2030-01-01T00:{minute:02}:00.000Z" for minute in range(50)] * 2
    results = batch(service, [{"type": "Foo", "send_ts": time} for time in times])
    assert {result["status"] for result in results} == {201}
    tasks = [result["task"] for result in results]
    assert all(list(task) == KEYS for task in tasks)
    assert [task["send_ts"] for task in tasks] == times
    assert len(service.tables.tasks) == 100
    assert service.http.get(f"/task/{tasks[7]['id']}").json_body == tasks[7]


def test_one_bad_task_does_not_keep_the_others_out(service: Service) -> None:
    results = batch(
        service,
        [GOOD, {"type": "Qux", "send_ts": NOW}, 17, GOOD, {"type": "Foo"}, {**GOOD, "id": "x"}],
    )
    assert [result["status"] for result in results] == [201, 400, 400, 201, 400, 400]
    errors = [result["error"] for result in results if result["status"] == 400]
    assert all(list(error) == ["Code", "Message", "Type", "Details"] for error in errors)
    assert [error["Details"]["field"] for error in errors] == ["type", "task", "send_ts", "id"]
    assert len(service.tables.tasks) == 2


def test_a_batch_of_nothing_but_bad_tasks_is_answered_too(service: Service) -> None:
    assert [result["status"] for result in batch(service, [None, []])] == [400, 400]


def test_a_repeated_batch_gives_the_same_tasks(service: Service) -> None:
    tasks: list[object] = [GOOD, 17, GOOD]
    first = batch(service, tasks, key="k")
    again = batch(service, tasks, key="k")
    assert [result["status"] for result in first] == [201, 400, 201]
    assert [result["status"] for result in again] == [200, 400, 200]
    assert [result.get("task") for result in again] == [result.get("task") for result in first]
    assert len(service.tables.tasks) == 2
    assert batch(service, tasks, key="l")[0]["status"] == 201
    assert service.create(key="k").status_code == 201, "a batch and a single create are apart"


def test_a_batch_that_was_mended_or_grew_keeps_what_it_made(service: Service) -> None:
    first = batch(service, [GOOD, {"type": "Qux", "send_ts": NOW}], key="k")
    again = batch(service, [GOOD, GOOD, GOOD], key="k")
    assert [result["status"] for result in again] == [200, 201, 201]
    assert again[0]["task"] == first[0]["task"]


def test_another_task_at_a_place_of_a_known_batch_is_422(service: Service) -> None:
    first = batch(service, [GOOD, GOOD, GOOD], key="k")
    service.http.delete(f"/task/{first[2]['task']['id']}")
    again = batch(service, [GOOD, {**GOOD, "type": "Foo"}, GOOD], key="k")
    assert [result["status"] for result in again] == [200, 422, 409]
    assert [result["error"]["Type"] for result in again[1:]] == [
        "IdempotencyKeyReused",
        "TaskDeleted",
    ]
    assert len(service.tables.tasks) == 3


def test_a_batch_tells_which_creates_have_an_unknown_outcome(service: Service) -> None:
    class LosesSecond(MemoryStore):
        def create(self, task: Task) -> Task:
            created = super().create(task)
            if len(self.tables.tasks) == 2:
                raise errors.StoreUnavailable
            return created

    service.use(LosesSecond(service.tables))
    results = batch(service, [GOOD, GOOD, GOOD], key="k")
    assert [result["status"] for result in results] == [201, 503, 201]
    lost = results[1]["error"]
    assert (lost["Code"], lost["Type"]) == (503, "StoreUnavailable")
    assert lost["Details"]["id"] in service.tables.tasks
    service.use(service.store)
    again = batch(service, [GOOD, GOOD, GOOD], key="k")
    assert [result["status"] for result in again] == [200, 200, 200]
    assert again[1]["task"]["id"] == lost["Details"]["id"]


def test_a_batch_body_may_be_large(service: Service, paint: None) -> None:
    painting = {"type": "Paint", "send_ts": NOW, "payload": {"colour": "x" * 32_754}}
    results = batch(service, [painting] * 100)
    assert {result["status"] for result in results} == {201}


def test_pages_of_large_payloads_are_short_and_complete(service: Service, paint: None) -> None:
    painting = {"type": "Paint", "send_ts": NOW, "payload": {"colour": "x" * 32_000}}
    made = {result["task"]["id"] for result in batch(service, [painting] * 80)}
    page, cursor = service.listed("limit=1000")
    assert len(page) == 32
    seen = page
    while cursor is not None:
        page, cursor = service.listed(f"limit=1000&cursor={cursor}")
        seen += page
    assert len(seen) == 80
    assert set(seen) == made
