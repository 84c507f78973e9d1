"""What tasks are created with and what is told of them: payload, batch, attempts, explain."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from chalice.test import HTTPResponse

import app as entry
from chalicelib import errors
from chalicelib.api import endpoints
from chalicelib.api.explain import Explanation, Reason
from chalicelib.attempts import LEASE_MS, Outcome
from chalicelib.store.contract import Heartbeat
from chalicelib.store.memory import MemoryStore
from chalicelib.task import Task, shard_of
from chalicelib.task_types import HANDLERS, Run, handles
from chalicelib.times import rfc3339
from tests.support.api_service import KEYS, NOW, NOW_MS, Service, expect_error
from tests.support.hostile_requests import JSON


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr(entry, "service", lambda: service.api)
    return service


# Payload

NO_TAGS: list[str] = []


@pytest.fixture
def paint() -> Iterator[None]:
    """A fourth task type, with a payload."""

    @handles("Paint")
    async def paint(
        run: Run,
        *,
        colour: str,
        size: int = 1,
        depth: float | None = None,
        tags: list[str] = NO_TAGS,
    ) -> str:
        return f"{colour} {size} {depth} {tags}"

    endpoints.openapi.cache_clear()
    yield
    del HANDLERS["Paint"]
    endpoints.openapi.cache_clear()


@pytest.mark.parametrize(
    "payload",
    [
        {"colour": "red"},
        {"colour": "", "size": -3, "depth": 1, "tags": []},
        {"depth": 1.5, "tags": ["a", "b"], "size": 10**30, "colour": "\u00e9\U0001f3a8\u0000"},
        {"colour": "x" * 32_754},
    ],
)
def test_a_payload_is_kept_as_it_came(
    service: Service, paint: None, payload: dict[str, object]
) -> None:
    task = service.created(type="Paint", payload=payload)
    assert task["payload"] == payload
    assert service.http.get(f"/task/{task['id']}").json_body["payload"] == payload
    assert service.http.get("/task").json_body["tasks"] == [task]


@pytest.mark.parametrize(
    ("payload", "field", "got", "expected"),
    [
        (None, "payload.colour", None, "a string"),
        ({}, "payload.colour", None, "a string"),
        ({"colour": None}, "payload.colour", "null", "a string"),
        ({"colour": 17}, "payload.colour", "17", "a string"),
        ({"colour": ["red"]}, "payload.colour", "an array", "a string"),
        ({"colour": "red", "size": True}, "payload.size", "true", "an integer"),
        ({"colour": "red", "size": 1.5}, "payload.size", "1.5", "an integer"),
        ({"colour": "red", "size": "1"}, "payload.size", '"1"', "an integer"),
        ({"colour": "red", "depth": False}, "payload.depth", "false", "a number or null"),
        ({"colour": "red", "tags": "a"}, "payload.tags", '"a"',
         "an array of which each is a string"),
        ({"colour": "red", "tags": [1]}, "payload.tags", "an array",
         "an array of which each is a string"),
        ({"colour": "red", "taste": 1}, "payload.taste", None,
         "payload.colour, payload.size, payload.depth, payload.tags"),
    ],
)  # fmt: skip
def test_a_payload_that_its_handler_does_not_take_is_refused(
    service: Service, paint: None, payload: object, field: str, got: str | None, expected: str
) -> None:
    fields: dict[str, Any] = {} if payload is None else {"payload": payload}
    details = expect_error(service.create(type="Paint", **fields), 400, "InvalidRequest")
    assert details == {"field": field, **({"got": got} if got else {}), "expected": expected}
    assert service.tables.tasks == {}


def test_an_empty_payload_is_fine_for_a_type_that_takes_none(service: Service) -> None:
    assert service.created(payload={})["payload"] == {}


def test_a_payload_in_another_order_is_the_same_body(service: Service, paint: None) -> None:
    first = service.create(key="k", type="Paint", payload={"colour": "red", "size": 2})
    again = service.create(key="k", type="Paint", payload={"size": 2, "colour": "red"})
    assert (first.status_code, again.status_code) == (201, 200)
    other = service.create(key="k", type="Paint", payload={"size": 3, "colour": "red"})
    expect_error(other, 422, "IdempotencyKeyReused")


def test_the_document_tells_what_each_type_takes(service: Service, paint: None) -> None:
    document = service.http.get("/openapi.json").json_body
    plain, painted = document["components"]["schemas"]["NewTask"]["anyOf"]
    assert plain["properties"]["type"]["enum"] == ["Bar", "Baz", "Foo"]
    assert plain["properties"]["payload"]["properties"] == {}
    assert painted["properties"]["type"]["enum"] == ["Paint"]
    assert painted["required"] == ["type", "send_ts", "payload"]
    assert painted["properties"]["payload"]["required"] == ["colour"]
    size = painted["properties"]["payload"]["properties"]["size"]
    assert size == {"type": "integer"}


# Batch


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


# Retry


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


# Attempts and explain


def test_attempts_tell_what_became_of_each(service: Service) -> None:
    task_id = service.created()["id"]

    def attempts() -> Any:
        response = service.http.get(f"/task/{task_id}/attempts")
        assert response.status_code == 200
        assert list(response.json_body) == ["attempts"]
        return response.json_body["attempts"]

    assert attempts() == []
    service.claim(task_id)
    running = {
        "attempt": 1,
        "processor": "p",
        "started_ts": NOW,
        "ended_ts": None,
        "outcome": "running",
        "error": None,
    }
    assert attempts() == [running]
    service.clock.tick(11)
    service.claim(task_id)
    lost = running | {"ended_ts": "2030-01-01T00:00:10.000Z", "outcome": "lease_lost"}
    second = running | {"attempt": 2, "started_ts": "2030-01-01T00:00:11.000Z"}
    assert attempts() == [lost, second]
    now_ms = service.clock.now_ms() + 500
    service.change(task_id, lambda t: t.failed_once("boom", now_ms=now_ms, jitter=lambda: 0))
    retried = {"ended_ts": "2030-01-01T00:00:11.500Z", "outcome": "retried", "error": "boom"}
    assert attempts() == [lost, second | retried]
    service.clock.tick(3)
    held = service.claim(task_id)
    now_ms = service.clock.now_ms()
    service.change(task_id, lambda _: held.completed("Baz 1", now_ms=now_ms))
    third = attempts()[2]
    assert (third["attempt"], third["outcome"], third["error"]) == (3, "completed", None)
    assert third["ended_ts"] == "2030-01-01T00:00:14.000Z"
    service.http.delete(f"/task/{task_id}")
    expect_error(service.http.get(f"/task/{task_id}/attempts"), 404, "TaskNotFound")


EXPLAINED = [
    "id", "type", "state", "now", "due", "reason", "message", "due_at", "seconds_until_due",
    "next_retry", "held_by", "lease_until", "shard", "owner", "hint_present", "processors",
    "attempts",
]  # fmt: skip


def explained(service: Service, task_id: str) -> Any:
    response = service.http.get(f"/task/{task_id}/explain")
    assert response.status_code == 200, response.body
    assert list(response.json_body) == EXPLAINED
    return response.json_body


def beat(service: Service, processor: str, seconds_ago: float = 0.0) -> None:
    beat_ms = service.clock.now_ms() - round(seconds_ago * 1000)
    row = Heartbeat(processor=processor, kind="worker", beat_ms=beat_ms)
    service.tables.heartbeats[processor] = row


def test_explain_of_a_task_through_its_life(service: Service) -> None:
    task_id = service.created(send_ts="2030-01-01T00:01:00Z")["id"]
    beat(service, "dead", seconds_ago=4.0)
    beat(service, "p", seconds_ago=0.5)
    told = explained(service, task_id)
    assert told == told | {
        "id": task_id,
        "type": "Baz",
        "state": "scheduled",
        "now": NOW,
        "due": False,
        "reason": "NotYetDue",
        "message": "It is due in 60.0 s.",
        "due_at": "2030-01-01T00:01:00.000Z",
        "seconds_until_due": 60.0,
        "next_retry": None,
        "held_by": None,
        "lease_until": None,
        "shard": shard_of(task_id, 16),
        "owner": "p",
        "hint_present": True,
        "processors": [{"id": "p", "kind": "worker", "seconds_since_beat": 0.5, "held_back_s": 0}],
        "attempts": [],
    }

    service.clock.tick(61)
    told = explained(service, task_id)
    assert (told["due"], told["seconds_until_due"]) == (True, -1.0)
    assert (told["reason"], told["owner"], told["processors"]) == ("NoProcessor", None, [])

    beat(service, "p")
    assert explained(service, task_id)["reason"] == "WaitingForProcessor"
    hints = dict(service.tables.hints)
    service.tables.hints.clear()
    told = explained(service, task_id)
    assert (told["reason"], told["hint_present"]) == ("NoHint", False)
    service.tables.hints.update(hints)

    service.claim(task_id)
    service.clock.tick(1)
    told = explained(service, task_id)
    assert (told["reason"], told["due"], told["hint_present"]) == ("Running", False, None)
    assert (told["held_by"], told["lease_until"]) == ("p", "2030-01-01T00:01:11.000Z")
    assert told["message"] == "It runs, attempt 1; its lease ends in 9.0 s."
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["running"]

    service.clock.tick(10)
    beat(service, "p")
    told = explained(service, task_id)
    assert (told["reason"], told["due"], told["held_by"]) == ("LeaseOver", True, "p")

    held = service.claim(task_id)
    now_ms = service.clock.now_ms()
    service.change(task_id, lambda t: t.failed_once("boom", now_ms=now_ms, jitter=lambda: 0))
    told = explained(service, task_id)
    assert (told["reason"], told["due"]) == ("RetryScheduled", False)
    assert told["next_retry"] == told["due_at"] == "2030-01-01T00:01:14.000Z"
    assert told["held_by"] is None

    service.change(task_id, lambda _: held.failed("boom", now_ms=now_ms))
    told = explained(service, task_id)
    assert (told["reason"], told["due_at"], told["seconds_until_due"]) == ("Failed", None, None)
    service.change(task_id, lambda _: held.completed("Baz 1", now_ms=now_ms))
    assert explained(service, task_id)["message"] == "It was completed by attempt 2."


def test_explain_of_a_task_that_rests_after_lost_leases(service: Service) -> None:
    task_id = service.created()["id"]
    for _ in range(4):
        held = service.claim(task_id)
        service.clock.tick(LEASE_MS / 1000)
    rests_until_ms, now_ms = held.rests_until_ms, service.clock.now_ms() - LEASE_MS
    assert rests_until_ms == now_ms + 5_000
    service.clock.tick(-LEASE_MS / 1000)
    resting = held.released(now_ms=now_ms, hint_due_ms=NOW_MS, not_before_ms=rests_until_ms)
    service.change(task_id, lambda _: resting)
    told = explained(service, task_id)
    assert told["reason"] == "RetryScheduled"
    assert told["message"] == "It lost 3 processors and rests; the next attempt is due in 5.0 s."
    assert told["next_retry"] == rfc3339(rests_until_ms)


def test_explain_of_a_type_that_is_not_known_here(service: Service) -> None:
    task_id = service.created()["id"]
    beat(service, "p")
    service.change(task_id, lambda task: replace(task, type="Newer"))
    assert explained(service, task_id)["reason"] == "NoHandler"


@pytest.mark.parametrize(
    ("delay_ms", "message"),
    [
        (119_900, "It is due in 119.9 s."),
        (120_000, "It is due in 2 minutes."),
        (7_200_000, "It is due in 2 hours."),
        (864_000_000, "It is due in 10 days."),
    ],
)
def test_spans_are_told_in_units_that_fit(service: Service, delay_ms: int, message: str) -> None:
    task_id = service.created(send_ts=rfc3339(NOW_MS + delay_ms))["id"]
    assert explained(service, task_id)["message"] == message


def test_every_reason_has_a_sentence_and_a_place_in_the_document(service: Service) -> None:
    task = Task.new(id="i", type="Foo", send_ts_ms=0, now_ms=0, token="t")
    for reason in Reason:
        told = Explanation(
            task=task, now_ms=0, reason=reason, shard=0, owner=None, live=[], has_hint=None
        )
        assert told.message.endswith(".")
    schemas = service.http.get("/openapi.json").json_body["components"]["schemas"]
    assert schemas["Explanation"]["properties"]["reason"]["enum"] == list(Reason)
    assert schemas["Attempt"]["properties"]["outcome"]["enum"] == list(Outcome)
