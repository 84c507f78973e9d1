"""What `python -m worker --metrics` serves, against the ledger of the same run."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.machine import children_of
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.statistics import COUNTERS, Statistics, Step, decoded
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from tests.conftest import free_port
from tests.support.cluster import Cluster

pytestmark = pytest.mark.wall_clock

DAY_MS = 86_400_000
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def cluster(settings: Settings, client: Client, tmp_path: Path) -> Iterator[Cluster]:
    settings = replace(settings, shards=4)
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix, shards=4)
    cluster = Cluster(settings, store, tmp_path)
    yield cluster
    cluster.end()


def fetched(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def samples(port: int) -> Samples:
    status, text = fetched(port)
    assert status == 200
    return {
        (one.name.removeprefix("scheduler_"), tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def told(ledger: Path) -> Counter[str]:
    """What the ledger tells of tasks of the type Baz."""
    counts: Counter[str] = Counter()
    for line in ledger.read_text().splitlines():
        event = json.loads(line)
        if event.get("type") == "Baz":
            counts["started"] += event["event"] == "start"
            settled = event["event"] == "settle" and event["committed"]
            counts["completed"] += settled and event["state"] == "completed"
    return +counts


def stored(cluster: Cluster) -> Statistics:
    now_ms, total = cluster.clock.now_ms(), Statistics()
    page = cluster.store.statistics(Step.HOUR, since_ms=now_ms - DAY_MS, until_ms=now_ms + DAY_MS)
    for row in page.rows:
        total.merge(decoded(row.text).get("Baz", Statistics()))
    return total


def test_metrics_and_statistics_agree_with_the_ledger(cluster: Cluster, tmp_path: Path) -> None:
    port, ledger = free_port(), tmp_path / "ledger"
    worker = cluster.worker("--processes", "2", "--metrics", str(port), "--ledger", str(ledger))
    cluster.wait_ready(2)
    tasks = cluster.wait_finished(cluster.add("Baz", count=200, delay_s=3), 30)
    found, by_ledger = samples(port), told(ledger)
    assert by_ledger == Counter(started=200, completed=200)
    baz, done = ("type", "Baz"), ("outcome", "completed")
    assert found["attempts_started_total", (baz,)] == 200
    assert found["tasks_total", (done, baz)] == found["attempts_total", (done, baz)] == 200
    assert found["lateness_seconds_count", (baz,)] == 200
    late_ms = sum(task.lateness_ms or 0 for task in tasks)
    assert found["lateness_seconds_sum", (baz,)] == pytest.approx(late_ms / 1000)
    cluster.wait_for(lambda: samples(port)["claims_total", (("outcome", "granted"),)] == 200, 5)
    assert found["places", ()] == 200 and found["processors", ()] == 2
    assert found["backlog_age_seconds", ()] == 0
    age_s = cluster.clock.now_ms() / 1000 - found["heartbeat_timestamp_seconds", ()]
    assert 0 <= age_s < 10
    updates = (("operation", "UpdateItem"), ("outcome", "ok"))
    assert found["store_requests_total", updates] >= 400
    assert fetched(port, "/healthz")[0] == 200 and fetched(port, "/x")[0] == 404
    worker.terminate()
    assert worker.wait(10) == 0
    counted = stored(cluster)
    assert {
        name: getattr(counted, name) for name in COUNTERS if getattr(counted, name)
    } == by_ledger
    assert counted.lateness.sum_ms == late_ms


def test_who_takes_the_place_of_a_dead_process_goes_on_counting(cluster: Cluster) -> None:
    port = free_port()
    worker = cluster.worker("--metrics", str(port))
    cluster.wait_ready(1)
    cluster.wait_finished(cluster.add("Baz", count=20), 20)
    before = {row.processor for row in cluster.store.heartbeats()}
    started = ("attempts_started_total", (("type", "Baz"),))
    assert samples(port)[started] == 20
    for pid in children_of(worker.pid):  # One runs tasks, one serves metrics.
        os.kill(pid, signal.SIGKILL)
    cluster.wait_for(lambda: {row.processor for row in cluster.store.heartbeats()} - before, 20)
    cluster.wait_finished(cluster.add("Baz", count=20), 20)
    cluster.wait_for(lambda: fetched_or_none(port), 10)
    found = samples(port)
    assert found[started] == 40
    assert found["processors", ()] == 1 and found["places", ()] == 100
    assert fetched(port, "/healthz")[0] in (200, 503)


def fetched_or_none(port: int) -> object:
    try:
        return fetched(port)
    except OSError:
        return None


def test_a_port_that_is_taken_is_told(cluster: Cluster) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        worker = cluster.worker("--metrics", str(port))
        assert worker.wait(20) == 2
    assert f"--metrics {port}: it cannot listen there" in cluster.log()


def test_a_worker_without_life_is_not_well(cluster: Cluster) -> None:
    """The store is not there yet: it waits, which is to live."""
    port = free_port()
    cluster.settings = replace(cluster.settings, endpoints=(f"http://127.0.0.1:{free_port()}",))
    worker = cluster.worker("--metrics", str(port))
    cluster.wait_for(lambda: fetched_or_none(port), 20)
    assert fetched(port, "/healthz")[0] == 200
    worker.terminate()
    worker.wait(10)
