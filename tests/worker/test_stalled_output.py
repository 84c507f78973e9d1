"""Real workers whose output does not flow."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import TaskState
from local.settings import ROOT
from tests.support.cluster import Cluster

pytestmark = pytest.mark.wall_clock


@pytest.fixture
def cluster(settings: Settings, client: Client, tmp_path: Path) -> Iterator[Cluster]:
    clock = SystemClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)
    cluster = Cluster(replace(settings, shards=4), store, tmp_path)
    yield cluster
    cluster.end()


class Reader:
    """The reading end of a pipe of 4 KiB, which reads nothing until it is told to."""

    def __init__(self) -> None:
        self._read, self.end = os.pipe()
        fcntl.fcntl(self.end, fcntl.F_SETPIPE_SZ, 4096)
        self.content = b""

    def fill(self) -> None:
        os.write(self.end, b"x" * 4095 + b"\n")

    def go_on(self) -> None:
        os.close(self.end)
        Thread(target=self._read_all, daemon=True).start()

    def lines(self) -> list[str]:
        return [line for line in self.content.decode().splitlines() if line.strip("x")]

    def _read_all(self) -> None:
        while piece := os.read(self._read, 65_536):
            self.content += piece


def worker(
    cluster: Cluster, out: int, err: int, *options: str, module: str = "worker"
) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env=cluster.env(),
        stdout=out,
        stderr=err,
    )
    cluster.processes.append(process)
    return process


def test_tasks_wait_for_a_reader_of_their_lines_and_none_fails(cluster: Cluster) -> None:
    reader = Reader()
    reader.fill()
    with open(cluster.folder / "0.err", "wb") as err:
        started = worker(cluster, reader.end, err.fileno())
    cluster.wait_ready(1)
    ids = cluster.add("Baz", count=150)
    for _ in range(8):
        ids += cluster.add("Baz", count=2)
        Event().wait(1)
    begun = [task for task in cluster.tasks(ids) if task.attempt]
    assert 0 < len(begun) < len(ids), "what ran at once is settled, then no more is claimed"
    assert {task.state for task in begun} == {TaskState.COMPLETED}
    assert cluster.log().count('"output_stalled"') == 1
    reader.go_on()
    tasks = cluster.wait_finished(ids, 20)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 1)}
    cluster.wait_for(lambda: len(reader.lines()) == len(ids), 5)
    assert sorted(reader.lines()) == sorted(str(task.result) for task in tasks)
    cluster.wait_for(lambda: '"output_flows"' in cluster.log(), 5)
    assert '"process_ended"' not in cluster.log()
    assert started.poll() is None


def test_a_reader_of_logs_that_stalls_holds_up_nothing(cluster: Cluster) -> None:
    """Neither the process that runs tasks nor the supervisor, which must be able to kill it."""
    reader = Reader()
    reader.fill()
    with open(cluster.folder / "0.out", "wb") as out:
        worker(cluster, out.fileno(), reader.end, module="tests.support.odd_worker")
    cluster.wait_ready(1)
    printing = cluster.add("Printing", count=20)
    tasks = cluster.wait_finished(printing + cluster.add("Baz", count=100), 10)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 1)}
    blocking = cluster.add("Blocking")
    cluster.wait_for(lambda: cluster.tasks(blocking)[0].attempt > 1, 25)
    reader.go_on()
    cluster.wait_for(lambda: "a handler outlived its deadline" in str(reader.lines()), 5)


def test_a_drain_does_not_wait_for_a_reader_that_stalls(cluster: Cluster) -> None:
    reader = Reader()
    reader.fill()
    with open(cluster.folder / "0.err", "wb") as err:
        process = worker(cluster, reader.end, err.fileno())
    cluster.wait_ready(1)
    ids = cluster.add("Baz", count=10)
    cluster.wait_for(lambda: cluster.tasks(ids)[0].attempt, 10)
    began_s = cluster.clock.monotonic_s()
    process.terminate()
    assert process.wait(10) == 0
    assert cluster.clock.monotonic_s() - began_s < 7
    assert "lines could not be printed (nobody reads them)" in cluster.log()


def test_a_reader_that_is_gone_is_told_and_tasks_go_on(cluster: Cluster) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(cluster.folder / "0.err", "wb") as err:
        worker(cluster, write, err.fileno())
    os.close(write)
    ids = cluster.add("Baz", count=200)
    tasks = cluster.wait_finished(ids, 20)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 1)}
    cluster.wait_for(lambda: "could not be printed (Broken pipe)" in cluster.log(), 5)
    assert len(cluster.log().splitlines()) <= 5


def test_full_disks_below_helper_files_stop_nothing(cluster: Cluster) -> None:
    with (
        open(cluster.folder / "0.out", "wb") as out,
        open(cluster.folder / "0.err", "wb") as err,
    ):
        options = ("--ledger", "/dev/full", "--life", "/dev/full")
        process = worker(cluster, out.fileno(), err.fileno(), *options)
    tasks = cluster.wait_finished(cluster.add("Baz", count=50), 20)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 1)}
    assert len(cluster.lines()) == 50
    assert process.poll() is None
    log = cluster.log()
    assert log.count('"ledger_lost"') == log.count('"life_lost"') == 1
    assert "Traceback" not in log
