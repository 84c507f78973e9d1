"""This version reads, changes and finishes what an earlier version stored.

`data/engine-before-rooms.db.gz` is a file of the embedded engine. An earlier version wrote it; its
worker was killed while one task ran and another one waited for a retry.
"""

import asyncio
import gzip
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chalice import test as chalice_test

import app as entry
from chalicelib.api.endpoints import Api
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.processing.context import Context
from chalicelib.processing.processor import Processor
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from local.settings import ROOT
from tests.conftest import embedded_engine
from tests.support.api_service import expect_error
from tests.support.fakes import NoWatchdog
from tests.support.hostile_requests import JSON
from tests.support.teapot import teapot_url

pytestmark = [pytest.mark.own_engine, pytest.mark.wall_clock]

STORED = ROOT / "tests" / "data" / "engine-before-rooms.db.gz"
WRITTEN_MS = 1_795_900_922_646
"""When the task that was left running was claimed, in November 2026."""
NOW_MS = WRITTEN_MS + 3_600_000
SWEPT_ROWS = 10_000

COMPLETED = {
    "c2d03440-8713-430a-8c5a-cefaf39f1862": "Baz 227",
    "5c7f5720-b920-4839-860f-253d208b1fd1": "Baz 52",
    "4d86abde-7b33-4ceb-8cf5-733e8196f367": "Baz 316",
    "f7249294-5d96-4841-b95b-2644339c834c": "Foo f7249294-5d96-4841-b95b-2644339c834c",
}
FAILED = "d0d23a17-3135-472e-b79a-c24234d5ca4c"
RUNNING = "1b529716-716e-4d97-a12c-73676742c400"
RETRIED = "510229e8-12e9-4ce5-9764-c2340b196221"
WITH_KEY = "88722ecc-2bc6-5fdf-b462-5ddaf8011d56"
WITH_PAYLOAD = "f1e14a73-3a7d-4f47-a02f-075df3046497"
DELETED = "7d31c434-7e92-402b-b5db-c73b235a9d14"
SCHEDULED = {
    WITH_KEY: ("Baz", "2040-06-07T08:09:10.000Z"),
    WITH_PAYLOAD: ("Baz", "2045-01-01T00:00:00.000Z"),
    "e32eb2fa-4615-481c-ab4a-285a1ea37937": ("Foo", "2059-12-31T22:00:00.000Z"),
    "ff706f1f-83f9-46e8-866b-43926070e795": ("Foo", "2060-01-31T22:00:00.000Z"),
    "f0b97c6c-b030-47a7-940f-b79fc4ab25ce": ("Foo", "2060-02-29T22:00:00.000Z"),
    "11720af4-f14c-43ae-a680-350d217991a9": ("Foo", "2060-03-31T22:00:00.000Z"),
    "ce3bbf8b-c504-4c72-ad07-8298f884ecee": ("Foo", "2060-04-30T22:00:00.000Z"),
    "7b21fd2e-02a2-4014-922a-e7119e86be08": ("Foo", "2090-01-01T00:00:00.000Z"),
}
ALL = {*COMPLETED, FAILED, RUNNING, RETRIED, *SCHEDULED}


class LaterClock(SystemClock):
    """It starts at NOW_MS, whatever the machine's clock shows."""

    def __init__(self) -> None:
        self._start_s = self.monotonic_s()

    def now_ms(self) -> int:
        return NOW_MS + int((self.monotonic_s() - self._start_s) * 1000)


@dataclass
class Service:
    """This version on a copy of the earlier file: the API, and processors on demand.

    lines: what processors printed.
    """

    settings: Settings
    clock: LaterClock
    client: Client
    http: chalice_test.TestHTTPClient
    lines: list[str] = field(default_factory=list)

    def listed(self, query: str) -> set[str]:
        return {task["id"] for task in self.shown(f"/task?limit=1000&{query}")["tasks"]}

    def shown(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.status_code == 200, response.body
        return response.json_body

    def process(self, seconds: float) -> None:
        asyncio.run(self._process(seconds))

    async def _process(self, seconds: float) -> None:
        queue = AlternatorTaskQueue.open(self.settings, self.clock)
        context = Context(
            id=str(uuid.uuid4()),
            queue=queue,
            clock=self.clock,
            rng=Random(5),
            settings=self.settings,
            emit=self.lines.append,
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await Processor(context, NoWatchdog(), kind="worker").run(stop)
        await queue.close()

    def sweep(self) -> int:
        """A whole sweep: how many rows it put again or deleted."""
        return asyncio.run(self._sweep())

    async def _sweep(self) -> int:
        queue, now_ms = AlternatorTaskQueue.open(self.settings, self.clock), self.clock.now_ms()
        changed = await queue.sweep_overdue(now_ms=now_ms)
        changed += await queue.sweep_some(SWEPT_ROWS, now_ms=now_ms)
        await queue.close()
        return changed

    def rows(self, table: str, slot: str = "") -> set[str]:
        """The tasks that rows of an index lead to."""
        rows = self.client.items(requests.scan(table, 0, 1, None))
        keys = [(row["slot"]["S"], row["at"]["S"]) for row in rows]
        return {at.partition("#")[2] for of, at in keys if "#" in at and of.startswith(slot)}

    def slots(self) -> set[str]:
        """The partitions of the timeline that have rows of tasks."""
        rows = self.client.items(requests.scan("timeline", 0, 1, None))
        return {row["slot"]["S"] for row in rows if "#" in row["at"]["S"]}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    file = tmp_path / "engine.db"
    file.write_bytes(gzip.decompress(STORED.read_bytes()))
    with embedded_engine(file) as engine_url, teapot_url() as bar_url:
        settings, clock = Settings(endpoints=(engine_url,), bar_url=bar_url), LaterClock()
        client = Client.connect(settings, clock)
        store = AlternatorTaskStore(client, clock)
        api = Api(store, clock, new_id=lambda: str(uuid.uuid4()))
        monkeypatch.setattr(entry, "service", lambda: api)
        http = chalice_test.Client(entry.app, project_dir=str(ROOT)).http
        yield Service(settings, clock, client, http)
        client.close()


def test_every_list_shows_what_was_stored(service: Service) -> None:
    assert service.shown("/ready")["status"] == "ok"
    assert service.listed("") == ALL
    assert service.listed("state=completed") == {*COMPLETED}
    assert service.listed("state=failed") == {FAILED}
    assert service.listed("state=running") == {RUNNING}
    assert service.listed("state=scheduled") == {RETRIED, *SCHEDULED}
    assert service.listed("state=scheduled&state=running&type=Bar") == {RETRIED}
    assert len(service.listed("since=2059-12-01T00:00:00Z&until=2061-01-01T00:00:00Z")) == 5


def test_every_task_is_as_it_was_stored(service: Service) -> None:
    for id, line in COMPLETED.items():
        task = service.shown(f"/task/{id}")
        assert (task["state"], task["attempt"], task["result"]) == ("completed", 1, line)
    for id, (type, send_ts) in SCHEDULED.items():
        task = service.shown(f"/task/{id}")
        assert (task["state"], task["attempt"]) == ("scheduled", 0)
        assert (task["type"], task["send_ts"]) == (type, send_ts)
        assert task.get("payload") == ({} if id == WITH_PAYLOAD else None)
        assert task["request_id"] is None
    failed = service.shown(f"/task/{FAILED}")
    assert (failed["type"], failed["state"], failed["attempt"]) == ("Bar", "failed", 3)
    assert failed["error"].startswith("ClientConnectorError: Cannot connect to host")
    expect_error(service.http.get(f"/task/{DELETED}"), 404, "TaskNotFound")


def outcomes(service: Service, task_id: str) -> list[str]:
    attempts = service.shown(f"/task/{task_id}/attempts")["attempts"]
    assert [one["attempt"] for one in attempts] == [*range(1, len(attempts) + 1)]
    return [one["outcome"] for one in attempts]


def test_attempts_of_the_earlier_version_are_shown(service: Service) -> None:
    assert {tuple(outcomes(service, id)) for id in COMPLETED} == {("completed",)}
    assert outcomes(service, FAILED) == ["retried", "retried", "failed"]
    assert outcomes(service, RUNNING) == ["running"]
    assert outcomes(service, RETRIED) == ["retried", "retried"]
    assert outcomes(service, WITH_KEY) == []


def test_explain_says_why_a_task_has_not_run(service: Service) -> None:
    reasons = {id: service.shown(f"/task/{id}/explain")["reason"] for id in ALL}
    assert {reasons[id] for id in COMPLETED} == {"Completed"}
    assert {reasons[id] for id in SCHEDULED} == {"NotYetDue"}
    assert reasons[FAILED] == "Failed"
    assert reasons[RUNNING] == reasons[RETRIED] == "NoProcessor"
    assert service.shown(f"/task/{RETRIED}/explain")["hint_present"] is True


def test_a_create_with_a_known_key_is_replayed(service: Service) -> None:
    body = b'{"type": "Baz", "send_ts": "2040-06-07T08:09:10Z"}'
    headers = {**JSON, "Idempotency-Key": "kept"}
    response = service.http.post("/task", headers=headers, body=body)
    assert (response.status_code, response.json_body["id"]) == (200, WITH_KEY)
    assert response.headers["Idempotency-Replayed"] == "true"
    other = service.http.post("/task", headers=headers, body=body.replace(b"Baz", b"Foo"))
    assert expect_error(other, 422, "IdempotencyKeyReused")["id"] == WITH_KEY
    assert service.listed("") == ALL


def test_a_processor_finishes_what_was_left(service: Service) -> None:
    assert service.http.post(f"/task/{FAILED}/retry").status_code == 200
    service.process(5.0)
    assert sorted(service.lines) == ["418", "418", f"Foo {RUNNING}"]
    assert service.listed("state=completed") == {*COMPLETED, FAILED, RUNNING, RETRIED}
    assert outcomes(service, FAILED) == ["retried", "retried", "failed", "completed"]
    assert outcomes(service, RUNNING) == ["lease_lost", "completed"]
    assert outcomes(service, RETRIED) == ["retried", "retried", "completed"]


def test_a_sweep_moves_every_row_that_is_needed_and_leaves_no_other(service: Service) -> None:
    earlier = re.compile(r"(all|open)\d")
    assert any(map(earlier.match, service.slots())), "as the earlier version put them"
    assert service.sweep() > 0
    assert not any(map(earlier.match, service.slots()))
    service.process(5.0)
    service.sweep()
    assert service.sweep() == 0
    assert service.rows("schedule") == {*SCHEDULED}
    assert service.rows("timeline", "open/") == {*SCHEDULED}
    assert service.rows("timeline", "all/") == ALL
    assert service.rows("timeline", "failed/") == {FAILED}
    expect_lists_after_the_run(service)


def test_lists_are_right_before_anything_is_moved(service: Service) -> None:
    service.process(5.0)
    expect_lists_after_the_run(service)
    assert service.http.post(f"/task/{FAILED}/retry").status_code == 200
    assert service.listed("state=scheduled") == {*SCHEDULED, FAILED}
    assert service.http.delete(f"/task/{FAILED}").status_code == 204
    assert service.http.delete(f"/task/{WITH_KEY}").status_code == 204
    assert service.listed("") == ALL - {FAILED, WITH_KEY}
    service.sweep()
    gone = {FAILED, WITH_KEY}
    assert not gone & (service.rows("timeline") | service.rows("schedule"))


def expect_lists_after_the_run(service: Service) -> None:
    assert service.listed("") == ALL
    assert service.listed("state=completed") == {*COMPLETED, RUNNING, RETRIED}
    assert service.listed("state=failed") == {FAILED}
    assert service.listed("state=scheduled") == {*SCHEDULED}
    assert service.listed("state=scheduled&state=failed&order=desc") == {*SCHEDULED, FAILED}
    assert service.listed("state=scheduled&type=Foo") == {
        id for id, (type, _) in SCHEDULED.items() if type == "Foo"
    }
