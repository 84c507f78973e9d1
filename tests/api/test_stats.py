"""What GET /stats tells."""

from typing import Any

import pytest

from chalicelib.histogram import Histogram
from chalicelib.statistics import COUNTERS, Statistics, StatisticsRow, Step, encoded
from chalicelib.store.contract import Heartbeat
from chalicelib.times import rfc3339
from tests.support.api_service import NOW, NOW_MS, Service, expect_error

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def statistics(count: int, *lateness_ms: int) -> Statistics:
    lateness = Histogram()
    for ms in lateness_ms:
        lateness.add([ms])
    return Statistics(started=count, completed=count, lateness=lateness)


def put(
    service: Service, start_ms: int, types: Any, step: Step = Step.MINUTE, p: str = "p"
) -> None:
    text = types if isinstance(types, str) else encoded(types)
    row = StatisticsRow(step, start_ms, p, 1, text)
    service.tables.statistics[row[:4]] = row


def told(service: Service, query: str = "") -> Any:
    response = service.http.get(f"/stats?{query}" if query else "/stats")
    assert response.status_code == 200, response.body
    return response.json_body


def test_a_quiet_service_has_every_key(service: Service) -> None:
    answer = told(service)
    assert list(answer) == [
        "now", "since", "until", "step_s", "is_complete", "total", "per_second", "by_type",
        "series", "backlog", "processors",
    ]  # fmt: skip
    assert (answer["now"], answer["until"], answer["step_s"]) == (NOW, NOW, 60)
    assert answer["since"] == rfc3339(NOW_MS - HOUR_MS)
    assert len(answer["series"]) == 60
    assert answer["total"]["lateness_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}
    assert answer["backlog"] == {"due": 0, "is_more": False, "oldest_s": None}
    assert answer["processors"] == [] and answer["by_type"] == {}


def test_rows_of_all_processors_are_summed(service: Service) -> None:
    put(service, NOW_MS - 2 * MINUTE_MS, {"Foo": statistics(2, 10, 20), "Baz": statistics(1, 1)})
    put(service, NOW_MS - 2 * MINUTE_MS, {"Foo": statistics(3, 1_000)}, p="q")
    put(service, NOW_MS - 61 * MINUTE_MS, {"Foo": statistics(7)})
    put(service, NOW_MS - HOUR_MS, {"Foo": statistics(7)}, Step.HOUR)
    answer = told(service)
    assert answer["total"]["started"] == 6
    assert answer["per_second"]["completed"] == round(6 / 3600, 4)
    assert [(type, one["started"]) for type, one in answer["by_type"].items()] == [
        ("Baz", 1), ("Foo", 5),
    ]  # fmt: skip
    assert answer["total"]["lateness_ms"] == {
        "p50": 10, "p90": pytest.approx(1_000, rel=0.06), "p99": pytest.approx(1_000, rel=0.06),
        "max": 1_000,
    }  # fmt: skip
    busy = [step for step in answer["series"] if step["started"]]
    assert [(step["ts"], step["started"]) for step in busy] == [
        (rfc3339(NOW_MS - 2 * MINUTE_MS), 6)
    ]
    for name in COUNTERS:
        assert sum(step[name] for step in answer["series"]) == answer["total"][name]
    assert told(service, "type=Baz")["total"]["started"] == 1


def test_hours_and_days_are_of_the_rows_of_hours(service: Service) -> None:
    for hour in range(-30, 0):
        put(service, NOW_MS + hour * HOUR_MS, {"Foo": statistics(1)}, Step.HOUR)
        put(service, NOW_MS + hour * HOUR_MS, {"Foo": statistics(100)})
    answer = told(service, f"since={rfc3339(NOW_MS - DAY_MS)}")
    assert (answer["step_s"], len(answer["series"]), answer["total"]["started"]) == (3600, 24, 24)
    answer = told(service, f"since={rfc3339(NOW_MS - DAY_MS - 1)}&step=1d")
    assert [step["started"] for step in answer["series"]] == [6, 24]


def test_times_are_rounded_to_steps(service: Service) -> None:
    service.clock.tick(90)
    answer = told(service, "step=5m")
    assert answer["since"] == rfc3339(NOW_MS - HOUR_MS)
    assert answer["until"] == rfc3339(NOW_MS + 5 * MINUTE_MS)
    put(service, NOW_MS + MINUTE_MS, {"Foo": statistics(369)})
    assert told(service, "step=5m")["per_second"]["started"] == 0.1, "up to now"


def test_what_cannot_be_read_is_told(service: Service) -> None:
    put(service, NOW_MS - MINUTE_MS, "from the future")
    put(service, NOW_MS - MINUTE_MS, {"Foo": statistics(1)}, p="q")
    answer = told(service)
    assert (answer["is_complete"], answer["total"]["started"]) == (False, 1)


def test_the_backlog_is_what_is_due_and_not_started(service: Service) -> None:
    early = service.created(send_ts=rfc3339(NOW_MS + 1_000))["id"]
    service.created(send_ts=rfc3339(NOW_MS + 5_000))
    service.created(send_ts=rfc3339(NOW_MS + 60_000))
    assert told(service)["backlog"]["due"] == 0
    service.clock.tick(11)
    assert told(service)["backlog"] == {"due": 2, "is_more": False, "oldest_s": 10.0}
    service.claim(early)
    assert told(service)["backlog"] == {"due": 1, "is_more": False, "oldest_s": 6.0}
    assert told(service, "type=Foo")["backlog"]["due"] == 0
    for _ in range(120):
        service.created()
    backlog = told(service)["backlog"]
    assert (backlog["due"], backlog["is_more"]) == (100, True)


def test_the_live_processors_are_shown(service: Service) -> None:
    for id, written_ms in (("a", NOW_MS - 500), ("b", NOW_MS - 60_000)):
        service.tables.heartbeats[id] = Heartbeat(
            processor=id, kind="worker", written_ms=written_ms, host="h", version="1", places=8,
            taken=3,
        )  # fmt: skip
    old = Heartbeat(processor="old", kind="tick", written_ms=NOW_MS)
    service.tables.heartbeats["old"] = old
    one, other = told(service)["processors"]
    assert sorted(one.pop("shards") + other.pop("shards")) == list(range(16))
    assert one == {
        "id": "a", "kind": "worker", "host": "h", "version": "1", "seconds_since_heartbeat": 0.5,
        "places": 8, "taken": 3, "free": 5, "held_back_s": 0,
    }  # fmt: skip
    assert (other["id"], other["host"], other["free"]) == ("old", None, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nope=1", "nope"),
        ("step=2m", "step"),
        ("step=", "step"),
        ("type=Qux", "type"),
        ("since=noon", "since"),
        ("since=2030-01-01T00:00:00Z", "since"),
        ("since=2030-01-02T00:00:00Z", "since"),
        ("since=2029-12-31T00:00:00Z&until=2029-12-30T00:00:00Z", "since"),
        ("since=2029-11-30T00:00:00Z", "since"),
        ("since=0001-01-01T00:00:00Z", "since"),
        ("until=0001-01-01T00:00:00Z", "until"),
        ("until=9999-12-31T23:59:59.999Z", "until"),
        ("since=2029-12-31T17:59:59Z&step=1m", "step"),
        ("since=2029-12-31T00:00:00Z&step=15m", "step"),
        ("step=1m&step=1h", "step"),
    ],
)
def test_what_cannot_be_asked_is_named(service: Service, query: str, field: str) -> None:
    details = expect_error(service.http.get(f"/stats?{query}"), 400, "InvalidRequest")
    assert details["field"] == field
