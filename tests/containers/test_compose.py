"""The service in containers, as compose.yaml starts it, with a stand-in for ScyllaDB."""

import json
from datetime import datetime
from functools import partial

import pytest

from chalicelib.config import Settings
from local.findings import percentile
from tests.containers.kit import CLOCK, Docker, Service, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.wall_clock]

LEASE_S = 10.0
OF_LIFE = ("python3", "-S", "-m", "worker.life", "/dev/shm/life")


def workers(service: Service) -> list[str]:
    return service.containers("worker")


def printed_by_workers(service: Service) -> list[str]:
    return [line for worker in workers(service) for line in service.printed(worker)]


def test_a_task_of_each_type_is_done_by_workers(service: Service) -> None:
    assert len(workers(service)) == 2
    # All share the work only once each has seen the others' heartbeats.
    ids = [id for type in ("Foo", "Bar", "Baz") for id in service.create(type, 20, delay_s=6)]
    results = [task["result"] for task in service.wait_completed(ids, 25)]
    assert results[:20] == [f"Foo {id}" for id in ids[:20]]
    assert set(results[20:40]) == {"200"}
    assert all(result.startswith("Baz ") for result in results[40:])
    # The ticker runs some of them too.
    types = {line.split()[0] for line in printed_by_workers(service)}
    assert types == {"Foo", "200", "Baz"}


def test_a_task_for_now_starts_at_once(service: Service) -> None:
    """Wake-up messages pass between the containers; the ticker, which takes none, owns shards."""
    wait_for(lambda: len(running(service)) == 2, 10)
    ids = [id for _ in range(50) for id in service.create("Baz")]
    late_ms = [task["lateness_ms"] for task in service.wait_completed(ids, 20)]
    p50, p99, p100 = (percentile(late_ms, share) for share in (0.5, 0.99, 1.0))
    print(f"50 tasks for now: p50 {p50} ms, p99 {p99} ms, p100 {p100} ms")
    # Polls alone find them after half an interval: so it was a message that most waited for.
    assert p50 < Settings().poll_interval_s * 1000 / 4


def test_every_container_gets_healthy_and_shows_itself_only_here(service: Service) -> None:
    (tables,) = service.containers("tables")
    assert service.docker.inspect(tables)["State"]["ExitCode"] == 0
    (api,) = service.containers("api")
    for container in (api, *service.containers("ticker"), *workers(service)):
        wait_for(partial(service.is_healthy, container), 60)
    assert service.docker.inspect(api)["NetworkSettings"]["Ports"] == {
        "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(service.port)}]
    }


def test_the_ticker_ticks(service: Service) -> None:
    (ticker,) = service.containers("ticker")

    def is_ticking() -> bool:
        listed = service.docker("top", ticker, "-eo", "pid,args").splitlines()
        return any(line.endswith("-m local tick") for line in listed)

    wait_for(is_ticking, 20)


def test_a_worker_that_stands_still_shows_no_life(service: Service) -> None:
    worker = workers(service)[0]
    ask = partial(service.docker.runs, "exec", worker, *OF_LIFE)
    assert ask()
    assert service.docker("exec", worker, "python3", "-c", STOP) == "stopped"
    wait_for(lambda: not ask(), 20)
    assert service.docker("exec", worker, "python3", "-c", GO_ON) == "went on"
    wait_for(ask, 10)


SIGNAL = """
import os, signal
from pathlib import Path
args = {int(p.name): (p / "cmdline").read_bytes() for p in Path("/proc").glob("[0-9]*")}
mine = [pid for pid, text in args.items() if text.startswith(b"python3\\0-m\\0worker\\0")]
os.kill(min(mine), signal.SIG%s)
print("%s")
"""
STOP = SIGNAL % ("STOP", "stopped")
GO_ON = SIGNAL % ("CONT", "went on")


def test_tasks_of_a_killed_worker_run_again_elsewhere(service: Service) -> None:
    ticker = service.containers("ticker")
    # Each one that runs again does so in a process of its own, which the machine has to bear.
    ids = service.create("Foo", 30, delay_s=6)
    wait_for(lambda: all(task["state"] == "running" for task in service.tasks(ids)), 15)
    killed = workers(service)[0]
    killed_ms = CLOCK.now_ms()
    service.docker("kill", "--signal", "KILL", killed)
    try:
        tasks = service.wait_completed(ids, LEASE_S + 10)
        printed = service.printed(killed)
    finally:
        service.docker("start", killed)
    again = [task for task in tasks if task["attempt"] > 1]
    assert again, "the killed worker held none: nothing was tested"
    took_s = [
        datetime.fromisoformat(task["started_ts"]).timestamp() - killed_ms / 1000 for task in again
    ]
    print(f"{len(again)} tasks started again {min(took_s):.1f} to {max(took_s):.1f} s after a kill")
    assert max(took_s) < LEASE_S + 2
    assert not {task["result"] for task in again} & set(printed)
    lines = [line for name in (*workers(service), *ticker) for line in service.printed(name)]
    assert [lines.count(task["result"]) for task in tasks] == [1] * len(tasks)


def test_a_worker_told_to_stop_finishes_what_it_runs(service: Service) -> None:
    wait_for(lambda: len(running(service)) == 2, 10)
    # Both share the work only once each has seen the other's heartbeat.
    ids = service.create("Foo", 60, delay_s=5)
    wait_for(lambda: all(task["state"] == "running" for task in service.tasks(ids)), 15)
    stopped = workers(service)[0]
    before = len(service.printed(stopped))
    asked_s = CLOCK.monotonic_s()
    service.docker("stop", "--time", "15", stopped)
    took_s = CLOCK.monotonic_s() - asked_s
    state = service.docker.inspect(stopped)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert took_s < 8
    assert len(service.printed(stopped)) > before, "it ran none: nothing was tested"
    tasks = service.wait_completed(ids, 10)
    assert {task["attempt"] for task in tasks} == {1}
    service.docker("start", stopped)


def running(service: Service) -> list[str]:
    return [name for name in workers(service) if service.docker.inspect(name)["State"]["Running"]]


def test_tasks_outlive_the_containers(service: Service) -> None:
    (id,) = service.create("Baz")
    (done,) = service.wait_completed([id], 20)
    service.compose("down", "--timeout", "10")
    service.up()
    assert service.tasks([id]) == [done]


def test_three_nodes_join_one_after_the_other(cluster: Service, docker: Docker) -> None:
    """The tables are made when each of them lists all: how often data is kept is decided then."""
    (tables,) = cluster.containers("tables")
    made = datetime.fromisoformat(docker.inspect(tables)["State"]["StartedAt"][:26] + "+00:00")
    racks = []
    for name in ("scylla", "scylla-2", "scylla-3"):
        (node,) = cluster.containers(name)
        seen = docker.inspect(node)
        assert seen["State"]["Health"]["Status"] == "healthy"
        assert datetime.fromisoformat(seen["State"]["StartedAt"][:26] + "+00:00") < made
        racks.append(seen["Args"][seen["Args"].index("--rack") + 1])
        ask = "from urllib.request import urlopen as u; print(u('http://localhost:8000/localnodes').read().decode())"
        assert len(json.loads(docker("exec", node, "python3", "-c", ask))) == 3
    assert racks == ["r1", "r2", "r3"]
    assert cluster.wait_completed(cluster.create("Baz", 5), 20)
