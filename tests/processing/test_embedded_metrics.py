"""What a tick logs for CloudWatch."""

import json
import logging
from typing import Any

import pytest

from chalicelib.log import ALWAYS_WHOLE, JsonFormatter
from chalicelib.processing.embedded_metrics import EmbeddedMetrics, embedded
from chalicelib.statistics import Statistics
from tests.support.fakes import NOON_MS, FakeClock, Ids, new_task


def check(line: Any) -> None:
    """As the specification of the embedded metric format has it."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert isinstance(line["_aws"]["Timestamp"], int)
    assert directive["Namespace"]
    for names in directive["Dimensions"]:
        assert all(isinstance(line[name], str) and line[name] for name in names)
    assert 0 < len(directive["Metrics"]) <= 100
    for metric in directive["Metrics"]:
        value = line[metric["Name"]]
        values = value if isinstance(value, list) else [value]
        assert 0 < len(values) <= 100
        assert all(isinstance(one, int) for one in values)


def test_each_type_has_a_line_that_is_one_object(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics, ids = EmbeddedMetrics(FakeClock()), Ids(1)
    for type in ("Foo", "Foo", "Baz"):
        task = new_task(ids, type=type, send_ts_ms=NOON_MS, now_ms=NOON_MS)
        held = task.claimed(now_ms=NOON_MS + 5, claim="c", processor="p")
        metrics("claim", held)
        metrics("start", held)
        metrics("settle", held.completed("x", now_ms=NOON_MS + 9), committed=True)
        metrics("settle", held.completed("x", now_ms=NOON_MS + 9), committed=None)
    metrics.write()
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    for line in lines:
        check(line)
    assert [(line["Type"], line["Started"], line["Completed"]) for line in lines] == [
        ("Foo", 2, 2), ("Baz", 1, 1),
    ]  # fmt: skip
    assert (lines[0]["Lateness"], lines[0]["RunTime"]) == ([5, 5], [4, 4])
    assert {line["action"] for line in lines} <= ALWAYS_WHOLE


def test_many_values_are_told_by_a_hundred() -> None:
    one = Statistics(started=5_000)
    for ms in range(1, 5_001):
        one.lateness.add([ms])
    line = embedded("Foo", one, NOON_MS)
    check(line)
    assert "RunTime" not in line, "nothing was measured"
    assert len(line["Lateness"]) == 100
    assert line["Lateness"][-1] == 5_000
    assert line["Lateness"][49] == pytest.approx(2_500, rel=0.06)
