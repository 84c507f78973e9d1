"""The benchmark counts truly and says all it should: small runs, no figure is judged."""

import json
from collections import Counter
from pathlib import Path

import pytest
import requests as http

from bench import __main__ as bench
from bench import drive, lean, machine, proxy, report, seed
from bench.drive import CLOCK, Options
from bench.report import Row
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.places import Indexes
from chalicelib.task import TaskState

pytestmark = pytest.mark.wall_clock

KEYS = {
    "details", "figure", "goal", "met", "name", "note", "ratio", "unit", "what", "yardstick",
    "yardstick_figure",
}  # fmt: skip


@pytest.mark.own_engine
def test_a_known_sequence_is_counted_as_it_is() -> None:
    with machine.engine() as engine, proxy.counting(engine.port) as edge:
        chains = [[lean.encoded(requests.get("tasks", str(n)))] * 3 for n in range(5)]
        put = lean.encoded(
            requests.put_row("workers", {k: {"S": k} for k in ("fleet", "processor")})
        )
        sent = lean.send(edge.port, [*chains, [put]])
        http.get(f"http://127.0.0.1:{edge.port}/", timeout=5)
        assert sent.requests == 16
        assert edge.now() == Counter({"GetItem": 15, "PutItem": 1, "-": 1})


@pytest.mark.own_engine
@pytest.mark.parametrize("processes", [1, 2])
def test_the_lean_client_does_what_processors_do(processes: int) -> None:
    """Its claims, completions and deletions leave what a worker leaves."""
    with machine.engine() as engine, proxy.counting(engine.port) as edge:
        settings = engine.settings
        maker = seed.Maker(CLOCK.now_ms())
        tasks = seed.placed(settings, [maker.task(CLOCK.now_ms()) for _ in range(60)])
        seed.put(engine.port, settings, tasks)
        assert {task.id: task for task in drive.stored(engine)} == {t.id: t for t in tasks}
        chains = seed.with_cleaning(settings, tasks, seed.runs(settings, maker, tasks))
        sent = lean.send_by(processes, edge.port, chains, connections=4)
        assert edge.now() == Counter({"UpdateItem": 120, "BatchWriteItem": 5})
        assert sent.requests == 125
        done = drive.stored(engine)
        assert [task.state for task in done] == [TaskState.COMPLETED] * 60
        indexes = Indexes(settings.table_prefix, settings.shards)
        left = [
            item["at"]["S"]
            for table in ("schedule", "timeline")
            for item in engine.client.items(requests.scan(table, 0, 1, None))
            if "#" in item["at"]["S"]
        ]
        assert sorted(left) == sorted(row.at for task in done for row in indexes.rows(task))


@pytest.mark.own_engine
def test_the_lean_client_refuses_what_the_engine_refuses() -> None:
    with machine.engine() as engine:
        absent = requests.delete("tasks", "absent", now_ms=0, token="")
        with pytest.raises(lean.Refused, match="ConditionalCheckFailed"):
            lean.send(engine.port, [[lean.encoded(absent)]])


@pytest.mark.own_engine
def test_a_run_of_workers_is_counted_whole() -> None:
    outcome = drive.burst(Options(), 2, 50, counted=True)
    assert {task.state for task in outcome.tasks} == {TaskState.COMPLETED}
    assert len(outcome.tasks) == outcome.counts["claimed"] == outcome.counts["completed"] == 50
    # One claim and one completion a task, and whatever claims were refused.
    assert outcome.requests["UpdateItem"] == 100 + outcome.counts["refused"]
    assert outcome.requests["Query"] > 0 and outcome.requests["PutItem"] > 0
    assert outcome.rate > 0 and outcome.worker_cpu_s > 0 and outcome.peak_mib > 10
    assert all(late >= 0 for late in outcome.lateness_ms)


RETENTION_ROWS = [
    "burst, retention", "retention, gone", "retention, left", "requests, retention",
    "engine CPU, retention",
]  # fmt: skip
CREATE_ROWS = ["requests, create", "requests, create now", "API CPU, create", "cold start"]


@pytest.mark.own_engine
@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (["create", "cold"], CREATE_ROWS),
        (["memory"], ["worker memory"]),
        (["recovery"], ["recovery, a process", "recovery, its handlers"]),
        (["retention"], RETENTION_ROWS),
    ],
)
def test_a_small_run_writes_every_row(parts: list[str], names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert bench._run(parts, Options(tasks=50, rounds=1, spread_s=2), path) == 0
    data = json.loads(path.read_text())
    assert [row["name"] for row in data["rows"]] == names
    assert all(row.keys() == KEYS for row in data["rows"])
    # A difference of two CPU times may come out below nothing in so small a run.
    assert all(row["figure"] > 0 for row in data["rows"] if row["name"] != "API CPU, create")
    assert {"cores", "load_average", "python", "parts", "seconds"} <= data["about"].keys()


@pytest.mark.own_engine
def test_a_create_is_two_requests() -> None:
    (counted, now, cpu) = bench.PARTS["create"](Options(tasks=50))
    assert now.details["requests"]["PutItem"] == 50
    assert now.details["requests"].get("Query", 0) <= 10, "looks at the fleet"
    sent = counted.details["requests"]
    assert sent["PutItem"] == 50
    # The rows of each task, and those of the directories of a bucket that was not there.
    assert 50 <= sent["BatchWriteItem"] <= 50 + 2 * 16
    assert all(ours > 0 and bare > 0 for ours, bare in cpu.details["cpu_ms"])


def test_table_and_quantiles() -> None:
    row = Row(
        name="n", what="w", figure=90, unit="/s", goal=">= 1", met=False, yardstick="y",
        yardstick_figure=100,
    )  # fmt: skip
    assert row.ratio == 0.9
    assert "90 /s" in report.table([row]) and "NOT MET" in report.table([row])
    assert [report.quantile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.99, 1)] == [1, 2, 4, 4]


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "burts"])
    assert bench.main() == 2
    assert "no part 'burts'; there are burst, latency" in capsys.readouterr().err
