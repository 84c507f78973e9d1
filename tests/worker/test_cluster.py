"""Real worker processes."""

import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest

from bench.machine import children_of
from chalicelib.attempts import LEASE_MS
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import TaskState
from tests.support.cluster import Cluster, is_there
from tests.support.engine import Engine
from tests.support.front import HOSTS, front, permission_check

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

pytestmark = pytest.mark.wall_clock


@pytest.fixture
def cluster(settings: Settings, client: Client, tmp_path: Path) -> Iterator[Cluster]:
    clock = SystemClock()
    settings = replace(settings, shards=16)
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=16)
    cluster = Cluster(settings, store, tmp_path)
    yield cluster
    cluster.end()


RECOVERY_MS = 1_500
"""From the death of a process that is replaced to the next claims."""
TICK = (
    "from chalicelib import log; from chalicelib.processing import tick; log.set_up(); tick.run({})"
)


def test_parallel_processors_run_each_task_once(cluster: Cluster, engine: Engine) -> None:
    """Three worker processes and a tick at once; all tasks are due at one instant, and a small
    server claims some 100 a second."""
    cluster.worker("--processes", "3")
    cluster.start("-c", TICK.format("lambda: 60_000"))
    cluster.wait_ready(4)
    ids = cluster.add("Baz", count=1_500 if engine.is_embedded else 100, delay_s=8)
    tasks = cluster.wait_finished(ids, 40)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 1)}
    assert len({task.processor for task in tasks}) > 1, "the shards were divided"
    lines = cluster.lines()
    assert Counter(lines) == Counter(task.result for task in tasks)
    assert all(task.lateness_ms is not None and task.lateness_ms >= 0 for task in tasks)


def test_tasks_of_a_killed_worker_run_again_when_their_lease_is_over(cluster: Cluster) -> None:
    killed = cluster.worker()
    cluster.wait_ready(1)
    ids = cluster.add("Foo", count=50, delay_s=1.5)
    cluster.wait_for(lambda: {t.state for t in cluster.tasks(ids)} == {TaskState.RUNNING}, 10)
    cluster.worker()
    killed.kill()
    killed_ms = cluster.clock.now_ms()
    tasks = cluster.wait_finished(ids, 20)
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.COMPLETED, 2)}
    assert sorted(cluster.lines()) == sorted(f"Foo {id}" for id in ids)
    ends = [task.finished_ts_ms for task in tasks if task.finished_ts_ms is not None]
    starts = [task.started_ts_ms for task in tasks if task.started_ts_ms is not None]
    assert max(starts) - killed_ms <= LEASE_MS + 2_000
    assert max(ends) - killed_ms <= 15_000


def test_tasks_of_a_killed_process_run_again_at_once(cluster: Cluster) -> None:
    """Also those of the process that replaced it, and of the next one."""
    worker = cluster.worker()
    cluster.wait_ready(1)
    ids = cluster.add("Foo", count=20, delay_s=1.5)
    cluster.wait_for(lambda: {t.state for t in cluster.tasks(ids)} == {TaskState.RUNNING}, 10)
    assert recovery_ms(cluster, worker, ids) <= RECOVERY_MS
    assert recovery_ms(cluster, worker, ids) <= RECOVERY_MS
    tasks = cluster.wait_finished(ids, 20)
    assert {(task.state, task.leases_lost) for task in tasks} == {(TaskState.COMPLETED, 2)}
    assert sorted(cluster.lines()) == sorted(f"Foo {id}" for id in ids)


def recovery_ms(cluster: Cluster, worker: "subprocess.Popen[bytes]", ids: Sequence[str]) -> int:
    """From the kill of the worker's process to the last of the next claims."""
    last = max(task.attempt for task in cluster.tasks(ids))
    (process,) = children_of(worker.pid)
    os.kill(process, signal.SIGKILL)
    killed_ms = cluster.clock.now_ms()
    cluster.wait_for(lambda: all(task.attempt > last for task in cluster.tasks(ids)), 5)
    return max(task.attempts[-1].started_ts_ms for task in cluster.tasks(ids)) - killed_ms


def test_a_handler_ends_with_the_process_that_holds_its_lease(cluster: Cluster) -> None:
    """In a process of its own, although it never gives the interpreter back: two never overlap."""
    worker = cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    (id,) = cluster.add("Clutching", delay_s=0.5)
    cluster.wait_for(lambda: "clutching in" in cluster.log(), 15)
    (handler,) = map(int, re.findall(r"clutching in (\d+)", cluster.log()))
    (process,) = children_of(worker.pid)
    os.kill(process, signal.SIGKILL)
    cluster.wait_for(lambda: not is_there(handler), 0.5, every_s=0.01)
    cluster.wait_for(lambda: cluster.tasks([id])[0].attempt == 3, 5)


def test_hundred_foos_run_side_by_side(cluster: Cluster) -> None:
    cluster.worker()
    cluster.wait_ready(1)
    ids = cluster.add("Foo", count=100, delay_s=3)
    tasks = cluster.wait_finished(ids, 20)
    due_ms = tasks[0].send_ts_ms
    assert all(t.finished_ts_ms is not None and t.finished_ts_ms - due_ms <= 4_500 for t in tasks)
    assert {task.attempt for task in tasks} == {1}


def test_endless_handler_is_killed_retried_and_failed(cluster: Cluster) -> None:
    cluster.start("-m", "tests.support.odd_worker")
    (id,) = cluster.add("Endless")
    (task,) = cluster.wait_finished([id], 40)
    assert (task.state, task.attempt, task.failures) == (TaskState.FAILED, 3, 3)
    assert task.error == "Timeout: not finished within 5 s"
    assert task.started_ts_ms is not None
    assert 21_000 <= task.started_ts_ms - task.send_ts_ms + 5_000 <= 30_000


def test_blocking_handler_costs_its_process_not_the_service(cluster: Cluster) -> None:
    """The process is killed from outside; its neighbours run again, the task alone at last."""
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    neighbours = cluster.add("Foo", count=5, delay_s=1)
    blocking = cluster.add("Blocking", delay_s=2)
    for task in cluster.wait_finished(neighbours, 30):
        assert (task.state, task.failures) == (TaskState.COMPLETED, 0)
    (failed,) = cluster.wait_finished(blocking, 40)
    assert (failed.state, failed.failures) == (TaskState.FAILED, 3)
    assert failed.error == "Timeout: not finished within 5 s"
    assert cluster.log().count("a handler outlived its deadline") == 1
    assert cluster.log().count('"process_started"') == 2, "later attempts killed no process"


def test_exiting_handler_is_failed_and_its_neighbour_is_not(cluster: Cluster) -> None:
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    neighbours = cluster.add("Foo", count=3, delay_s=1)
    exiting = cluster.add("Exiting", delay_s=1.5)
    for task in cluster.wait_finished([*neighbours, *exiting], 40):
        expected = TaskState.FAILED if task.type == "Exiting" else TaskState.COMPLETED
        assert task.state is expected
        assert task.type == "Exiting" or task.failures == 0
    (failed,) = cluster.tasks(exiting)
    assert failed.error == "HandlerDied: the handler ended its process, exit code 3"


def test_handler_that_raises_no_exception_is_failed_by_its_first_process(cluster: Cluster) -> None:
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    (panicking,) = cluster.add("Panicking", delay_s=1)
    (failed,) = cluster.wait_finished([panicking], 20)
    assert [one.outcome for one in failed.attempts] == ["retried", "retried", "failed"]
    assert failed.error == "NativePanic: panicked"
    assert cluster.log().count('"process_started"') == 1


@pytest.mark.parametrize(
    ("type", "error"),
    [
        ("Cancelling", "CancelledError: the handler cancelled itself"),
        ("Stopping", "RuntimeError: Event loop stopped before Future completed."),
    ],
)
def test_handler_that_ends_what_is_not_its_own_costs_one_process(
    cluster: Cluster, type: str, error: str
) -> None:
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    (neighbour,) = cluster.add("Foo", delay_s=1)
    (odd,) = cluster.add(type, delay_s=1.5)
    done, failed = cluster.wait_finished([neighbour, odd], 40)
    assert (done.state, done.failures) == (TaskState.COMPLETED, 0)
    outcomes = [one.outcome for one in failed.attempts if one.outcome != "given_back"]
    assert outcomes == ["lease_lost", "retried", "retried", "failed"]
    assert failed.error == error
    assert cluster.log().count('"process_started"') == 2


def test_handler_that_kills_the_worker_from_its_own_process_has_to_rest(cluster: Cluster) -> None:
    """Three times, one after the other; then it waits, and what else there is runs undisturbed."""
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    (killer,) = cluster.add("Regicide", delay_s=1)
    neighbours = cluster.add("Foo", count=5, delay_s=8)
    cluster.wait_for(lambda: cluster.tasks([killer])[0].is_resting, 50)
    (resting,) = cluster.tasks([killer])
    assert (resting.state, resting.leases_lost, resting.failures) == ("scheduled", 3, 0)
    lost = resting.attempts[2]
    assert (lost.outcome, resting.rests_until_ms) == ("lease_lost", resting.due_at_ms)
    assert resting.due_at_ms == (lost.ended_ts_ms or 0) + 5_000
    assert cluster.log().count('"process_started"') == 4
    done = cluster.wait_finished([*neighbours, *cluster.add("Baz", count=20)], 20)
    assert {(task.state, task.failures) for task in done} == {(TaskState.COMPLETED, 0)}


def test_handlers_that_kill_the_fork_server_cost_no_worker(cluster: Cluster) -> None:
    """Beside others that need it just then."""
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    ids = cluster.add("Orphaning", count=8, delay_s=1)
    done = cluster.wait_finished(ids, 40)
    assert {(task.state, task.leases_lost) for task in done} == {(TaskState.COMPLETED, 1)}
    ended = cluster.log().count("process ended with code")
    assert cluster.log().count("process ended with code 3") == ended, "by its own exit alone"


def test_stray_prints_do_not_get_between_the_lines(cluster: Cluster) -> None:
    cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_finished(cluster.add("Printing"), 20)
    assert cluster.lines() == ["Printing"]
    assert "a stray line" in cluster.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_drains(cluster: Cluster, number: int) -> None:
    worker = cluster.worker("--processes", "2")
    cluster.wait_ready(2)
    ids = cluster.add("Foo", count=10)
    cluster.wait_for(lambda: {t.state for t in cluster.tasks(ids)} == {TaskState.RUNNING}, 10)
    later = cluster.add("Foo", count=3, delay_s=0.5)
    began_s = cluster.clock.monotonic_s()
    worker.send_signal(number)
    assert worker.wait(10) == 0
    assert cluster.clock.monotonic_s() - began_s < 7
    assert {task.state for task in cluster.tasks(ids)} == {TaskState.COMPLETED}
    assert {task.state for task in cluster.tasks(later)} == {TaskState.SCHEDULED}
    assert sorted(cluster.lines()) == sorted(f"Foo {id}" for id in ids)


def test_second_signal_ends_at_once(cluster: Cluster) -> None:
    worker = cluster.start("-m", "tests.support.odd_worker")
    cluster.wait_ready(1)
    ids = cluster.add("Endless", count=10)
    cluster.wait_for(lambda: {t.state for t in cluster.tasks(ids)} == {TaskState.RUNNING}, 10)
    worker.send_signal(signal.SIGTERM)
    Event().wait(1.2)
    began_s = cluster.clock.monotonic_s()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) != 0
    assert cluster.clock.monotonic_s() - began_s < 2, "a drain takes four more"


def test_dead_child_is_replaced(cluster: Cluster) -> None:
    worker = cluster.worker()
    cluster.wait_ready(1)
    (child,) = children_of(worker.pid)
    os.kill(child, signal.SIGKILL)
    cluster.wait_for(lambda: children_of(worker.pid) not in ([], [child]), 5)
    (task,) = cluster.wait_finished(cluster.add("Baz"), 20)
    assert task.state is TaskState.COMPLETED


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder near the root: the paths of sockets must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_dead_children_leave_no_temporary_files(cluster: Cluster, temporary: Path) -> None:
    worker = cluster.start("-m", "worker", TMPDIR=str(temporary))
    cluster.wait_ready(1)
    (foo,) = cluster.add("Foo")
    cluster.wait_for(lambda: cluster.tasks([foo])[0].attempt == 1, 10)
    recovery_ms(cluster, worker, [foo])
    recovery_ms(cluster, worker, [foo])
    cluster.wait_finished([foo], 20)
    assert [*temporary.iterdir()], "a fork server has its address there"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert not [*temporary.iterdir()]


def test_children_end_with_a_killed_supervisor(cluster: Cluster) -> None:
    worker = cluster.worker("--processes", "2")
    cluster.wait_ready(2)
    children = children_of(worker.pid)
    assert [os.getsid(pid) for pid in children] == [os.getsid(worker.pid)] * 2
    assert [os.getpgid(pid) for pid in children] == [os.getpgid(worker.pid)] * 2
    worker.kill()
    cluster.wait_for(lambda: not any(map(is_there, children)), 2)


@pytest.mark.own_tables
def test_worker_refuses_tables_that_do_not_fit(
    cluster: Cluster, raw_client: "DynamoDBClient"
) -> None:
    raw_client.delete_table(TableName=f"{cluster.settings.table_prefix}schedule")
    worker = cluster.worker()
    assert worker.wait(20) == 2
    assert "schedule is missing" in cluster.log()


def test_worker_waits_for_the_store_and_can_be_ended_meanwhile(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.settings = Settings(endpoints=("http://127.0.0.1:9",))
    worker = cluster.worker()
    cluster.wait_for(lambda: "waiting for the store" in cluster.log(), 20)
    worker.terminate()
    assert worker.wait(7) == 0


def test_worker_waits_for_a_permission_and_goes_on_when_it_is_granted(
    cluster: Cluster, engine: Engine
) -> None:
    granted = {"SELECT"}
    with front(engine.settings, HOSTS[0]) as nodes:
        nodes.lists[HOSTS[0]] = [HOSTS[0]]
        nodes.check = permission_check(granted)
        cluster.settings = replace(cluster.settings, endpoints=(nodes.url(),))
        worker = cluster.worker()
        cluster.wait_for(lambda: "MODIFY access is denied to role scheduler" in cluster.log(), 20)
        Event().wait(2)
        assert worker.poll() is None
        assert cluster.log().count("waiting for the store: the store's role may not") == 1
        granted.add("MODIFY")
        (task,) = cluster.wait_finished(cluster.add("Baz"), 20)
        assert task.state is TaskState.COMPLETED
        worker.terminate()
        assert worker.wait(10) == 0


@pytest.mark.parametrize("options", [["--processes", "0"], ["--processes", "x"], ["--what"]])
def test_worker_refuses_wrong_options(cluster: Cluster, options: list[str]) -> None:
    assert cluster.worker(*options).wait(20) == 2


def test_tick_runs_what_is_due_and_ends_before_its_deadline(cluster: Cluster) -> None:
    """Without any worker, with less time than a whole invocation."""
    ids = cluster.add("Baz", count=20, delay_s=1)
    began_s = cluster.clock.monotonic_s()
    clock = "__import__('time').monotonic"
    tick = cluster.start("-c", TICK.format(f"lambda end={clock}() + 14: (end - {clock}()) * 1000"))
    assert tick.wait(20) == 0
    assert cluster.clock.monotonic_s() - began_s < 14
    assert {task.state for task in cluster.tasks(ids)} == {TaskState.COMPLETED}
    assert len(cluster.lines()) == 20
