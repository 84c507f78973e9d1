"""Two API processes behind one engine."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.contract import TaskFilter
from local.settings import ROOT
from tests.conftest import free_port, wait_for_port
from tests.support.cluster import service_env
from tests.support.fakes import FakeClock

KEYS = 1_000
SESSIONS = threading.local()

pytestmark = pytest.mark.wall_clock


@pytest.fixture
def apis(settings: Settings, client: Any, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The addresses of two processes of `chalice local` on tables of this test's own."""
    ports = [free_port(), free_port()]
    command = [str(Path(sys.executable).with_name("chalice")), "local", "--no-autoreload"]
    with (tmp_path / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                [*command, f"--port={port}"],
                cwd=ROOT,
                env=service_env(settings),
                stdout=log,
                stderr=log,
            )
            for port in ports
        ]
    try:
        for port in ports:
            wait_for_port(port)
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def call(method: str, url: str, **given: Any) -> requests.Response:
    """On a connection that is kept for each thread."""
    if not hasattr(SESSIONS, "session"):
        SESSIONS.session = requests.Session()
    session: requests.Session = SESSIONS.session
    return session.request(method, url, timeout=20, **given)


def create(url: str, key: str | None = None, **fields: Any) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    task = {"type": "Baz", "send_ts": "2040-01-01T00:00:00Z", **fields}
    return call("POST", f"{url}/task", json=task, headers=headers)


def test_what_one_process_does_another_sees_at_once(apis: tuple[str, str]) -> None:
    here, there = apis
    for _ in range(20):
        task = create(here).json()
        assert call("GET", f"{there}/task/{task['id']}").json() == task
        assert task in call("GET", f"{there}/task").json()["tasks"]
        assert call("DELETE", f"{there}/task/{task['id']}").status_code == 204
        assert call("GET", f"{here}/task/{task['id']}").status_code == 404
        assert call("GET", f"{here}/task").json()["tasks"] == []


def test_a_key_makes_one_task_whoever_is_asked_and_however_often(
    apis: tuple[str, str], settings: Settings, client: Any
) -> None:
    """1,000 keys, each sent to both processes at the same time."""

    def both(key: str) -> list[requests.Response]:
        together = threading.Barrier(2)

        def one(url: str) -> requests.Response:
            together.wait()
            return create(url, key)

        return list(pairs.map(one, apis))

    with ThreadPoolExecutor(16) as pairs, ThreadPoolExecutor(8) as keys:
        answers = list(keys.map(both, (f"key-{n}" for n in range(KEYS))))
    assert all(sorted(a.status_code for a in pair) == [200, 201] for pair in answers)
    for pair in answers:
        [replay] = [answer for answer in pair if answer.status_code == 200]
        assert replay.headers["Idempotency-Replayed"] == "true"
        assert pair[0].json() == pair[1].json()
    made = {pair[0].json()["id"] for pair in answers}
    assert len(made) == KEYS
    prefix, shards = settings.table_prefix, settings.shards
    store = AlternatorTaskStore(client, FakeClock(), prefix=prefix, shards=shards)
    page = store.list(TaskFilter(limit=2 * KEYS))
    assert {task.id for task in page.tasks} == made
    assert page.next is None


def test_a_batch_sent_to_both_at_once_makes_each_task_once(apis: tuple[str, str]) -> None:
    """20 batches of 50, each sent to both processes at the same time."""
    batch = {"tasks": [{"type": "Baz", "send_ts": "2040-01-01T00:00:00Z"}] * 50}

    def both(key: str) -> list[list[Any]]:
        together = threading.Barrier(2)

        def one(url: str) -> list[Any]:
            together.wait()
            answer = call("POST", f"{url}/tasks", json=batch, headers={"Idempotency-Key": key})
            assert answer.status_code == 200
            results: list[Any] = answer.json()["results"]
            return results

        return list(pairs.map(one, apis))

    with ThreadPoolExecutor(8) as pairs, ThreadPoolExecutor(4) as keys:
        answers = list(keys.map(both, (f"batch-{n}" for n in range(20))))
    made = [pair for first, second in answers for pair in zip(first, second, strict=True)]
    assert all(sorted(one["status"] for one in pair) == [200, 201] for pair in made)
    assert all(pair[0]["task"] == pair[1]["task"] for pair in made)
    ids = {pair[0]["task"]["id"] for pair in made}
    assert len(ids) == 1_000
    listed = call("GET", f"{apis[0]}/task?limit=1000").json()
    assert {task["id"] for task in listed["tasks"]} == ids
    assert listed["cursor"] is None


def test_a_key_with_two_bodies_at_once_makes_one_task_and_one_refusal(
    apis: tuple[str, str],
) -> None:
    times = ["2040-01-01T00:00:00Z", "2040-01-02T00:00:00Z"]

    def one(number: int) -> requests.Response:
        return create(apis[number % 2], f"key-{number // 2}", send_ts=times[number % 2])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        assert sorted([first.status_code, second.status_code]) == [201, 422]
    made = [answer.json() for answer in answers if answer.status_code == 201]
    listed = call("GET", f"{apis[0]}/task?limit=1000").json()["tasks"]
    in_order = sorted(made, key=lambda task: (task["send_ts"], task["id"]))
    assert json.dumps(listed) == json.dumps(in_order)
