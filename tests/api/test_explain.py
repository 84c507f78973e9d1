"""The attempts of a task, and why it has not run yet."""

from dataclasses import replace
from typing import Any

import pytest

from chalicelib import errors
from chalicelib.api.explain import Explanation, Reason
from chalicelib.api.readiness import WRITE_CHECK_EVERY_S
from chalicelib.attempts import LEASE_MS, Outcome
from chalicelib.store.contract import Heartbeat
from chalicelib.task import Task, shard_of
from chalicelib.times import rfc3339
from tests.support.api_service import NOW, NOW_MS, Service, TakesNoWrites, expect_error, explained


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


def heartbeat(service: Service, processor: str, seconds_ago: float = 0.0) -> None:
    written_ms = service.clock.now_ms() - round(seconds_ago * 1000)
    row = Heartbeat(processor=processor, kind="worker", written_ms=written_ms)
    service.tables.heartbeats[processor] = row


def test_explain_of_a_task_through_its_life(service: Service) -> None:
    task_id = service.created(send_ts="2030-01-01T00:01:00Z")["id"]
    heartbeat(service, "dead", seconds_ago=4.0)
    heartbeat(service, "p", seconds_ago=0.5)
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

    heartbeat(service, "p")
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
    heartbeat(service, "p")
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
    written_ms = service.clock.now_ms()
    heartbeat = Heartbeat(processor="p", kind="worker", written_ms=written_ms)
    service.tables.heartbeats["p"] = heartbeat
    assert service.http.get(path).json_body["reason"] == "WaitingForProcessor"
    assert store.asked == 2, "whoever sends heartbeats can write"


def test_explain_of_a_type_that_is_not_known_here(service: Service) -> None:
    task_id = service.created()["id"]
    heartbeat(service, "p")
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
