"""Each fault the service is made for, on real processes; the checker has the last word.

The chain of every scenario: processes start, tasks come, something goes wrong, the evidence is
judged. Each is bounded in time and ends only what it started.
"""

import asyncio
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from bench.machine import children_of
from chalicelib.attempts import LEASE_MS
from chalicelib.store.alternator.heartbeats import FLEET
from chalicelib.store.alternator.requests import query, scan
from chalicelib.task import FINISHED, Task, TaskState
from local.findings import percentile
from tests.conftest import free_port, wait_for_port
from tests.faults import chaos
from tests.faults.arena import Arena, Done, family_of, say, send
from tests.faults.plan import Plan, Rule, evenly

pytestmark = [pytest.mark.faults, pytest.mark.wall_clock]

MIX = ("Foo", "Baz", "Baz", "Bar")
RECOVERY_S = LEASE_MS / 1000 + 2
ODD = "tests.support.odd_worker"
SKEWED = "tests.faults.skewed_worker"


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def mixed(count: int) -> list[str]:
    return [MIX[number % len(MIX)] for number in range(count)]


def leases_lost(tasks: list[Task]) -> int:
    return sum(task.leases_lost for task in tasks)


# Processes that die


def test_workers_killed_again_and_again(arena: Arena) -> None:
    workers = [arena.worker() for _ in range(3)]
    arena.wait_ready(3)
    with arena.load(mixed(400), delay_s=2, over_s=16):
        for _ in range(8):
            wait(2)
            arena.kill(workers.pop(arena.rng.randrange(len(workers))))
            workers.append(arena.worker())
    arena.wait_calm(45)
    findings = arena.check(recovered_within_s=RECOVERY_S)
    say_recoveries(findings.recovery_from_death_s)
    assert findings.is_kept
    assert findings.executions > findings.tasks, "some ran again"
    assert len(findings.recovery_from_death_s) > 10


def test_recovery_after_a_kill_takes_a_lease_and_2_s_at_most(arena: Arena) -> None:
    """Counted from the kill, with other processors alive."""
    workers = [arena.worker() for _ in range(3)]
    for _ in range(2):
        arena.wait_ready(3)
        kill_in_the_middle(arena, workers.pop(0))
        arena.wait_done(30)
        workers.append(arena.worker())
    findings = arena.check(recovered_within_s=RECOVERY_S)
    say_recoveries(findings.recovery_from_death_s)
    assert findings.is_kept
    assert len(findings.recovery_from_death_s) >= 30
    assert {task.state for task in arena.stored()} == {TaskState.COMPLETED}


def test_a_worker_killed_in_a_burst(arena: Arena) -> None:
    """Deletions that wait for the end of the burst die with it; its heir meets what is left."""
    killed = arena.worker()
    arena.worker()
    arena.wait_ready(2)
    due_ms = arena.clock.now_ms() + 9_000
    asyncio.run(arena.put_directly("Baz", 5_000, due_ms))
    say(f"put with {(due_ms - arena.clock.now_ms()) / 1000:.1f} s left")
    arena.wait_for(lambda: len(arena.events("settle")) >= 1_500, 30)
    arena.kill(killed)
    killed_ms = arena.clock.now_ms()
    arena.wait_done(60)
    findings = arena.check()
    assert findings.is_kept
    tasks = arena.stored()
    assert {task.state for task in tasks} == {TaskState.COMPLETED}
    after_ms = [(task.attempt, (task.started_ts_ms or 0) - killed_ms) for task in tasks]
    again_ms = max(ms for attempt, ms in after_ms if attempt > 1)
    burst_ms = max(ms for attempt, ms in after_ms if attempt == 1)
    say(f"after the kill, the burst ended after {burst_ms} ms, the last ran again at {again_ms} ms")
    assert again_ms <= max(RECOVERY_S * 1000, burst_ms + 2_000), "as soon as anybody has room"
    arena.wait_for(lambda: rows_in(arena, "schedule") == 0, 60)


def say_recoveries(measured: list[float]) -> None:
    p50, p90 = (percentile(measured, share) for share in (0.5, 0.9))
    say(f"{len(measured)} recoveries, p50 {p50:.2f} s p90 {p90:.2f} s p100 {max(measured):.2f} s")


def kill_in_the_middle(arena: Arena, worker: "subprocess.Popen[bytes]") -> None:
    """SIGKILL while it, among others, runs tasks."""
    before = len(arena.events("start"))
    arena.add("Foo", 90, delay_s=1.5)
    arena.wait_for(lambda: len(arena.events("start")) >= before + 90, 20)
    arena.kill(worker)


def test_neighbours_of_process_killers_are_completed(arena: Arena) -> None:
    arena.worker(module=ODD)
    arena.wait_ready(1)
    neighbours = arena.add("Foo", 30, delay_s=2)
    killers = arena.add("Exiting", 3, delay_s=3.5)
    arena.wait_done(55)
    findings = arena.check()
    assert findings.is_kept
    tasks = {task.id: task for task in arena.stored()}
    assert {tasks[id].state for id in neighbours} == {TaskState.COMPLETED}
    assert {tasks[id].failures for id in neighbours} == {0}
    assert {tasks[id].state for id in killers} == {TaskState.FAILED}


# Processes that stop and go on


def test_a_stopped_worker_goes_on_after_its_leases(arena: Arena) -> None:
    """Supervisor and child together, as in a frozen container."""
    stopped = arena.worker()
    arena.wait_ready(1)
    family = stop_in_the_middle(arena, stopped)
    arena.worker()
    wait(LEASE_MS / 1000 + 3)
    send(family, signal.SIGCONT)
    arena.wait_calm(40)
    findings = arena.check()
    assert findings.is_kept
    assert findings.executions > findings.tasks


def test_a_zombie_neither_settles_nor_prints(arena: Arena) -> None:
    """The child goes on before its supervisor can kill it, while its heirs run."""
    stopped = arena.worker()
    arena.wait_ready(1)
    family = stop_in_the_middle(arena, stopped)
    arena.worker()
    wait(LEASE_MS / 1000 + 2)
    send(family[1:], signal.SIGCONT)
    wait(3)
    send(family[:1], signal.SIGCONT)
    arena.wait_calm(40)
    findings = arena.check()
    zombies = [one for one in arena.events("settle") if one.pid in family and not one.committed]
    say(f"{len(zombies)} settlements of the zombie refused or not sent")
    assert findings.is_kept
    assert len(zombies) >= 30


def test_a_stopped_child_is_killed_and_replaced(arena: Arena) -> None:
    """Its supervisor sees that its handlers outlive their deadline."""
    worker = arena.worker()
    arena.wait_ready(1)
    _, child, *_ = stop_in_the_middle(arena, worker, child_only=True)
    arena.wait_for(lambda: child not in children_of(worker.pid), 12)
    arena.wait_calm(40)
    assert arena.check().is_kept
    assert "a handler outlived its deadline" in arena.log()


def stop_in_the_middle(
    arena: Arena, worker: "subprocess.Popen[bytes]", *, child_only: bool = False
) -> list[int]:
    """SIGSTOP while many tasks run. Returns the processes, the supervisor first."""
    arena.add("Foo", 40, delay_s=1.0)
    arena.add_mixed(["Baz"] * 60, delay_s=1.0, over_s=3.0)
    arena.wait_for(lambda: len(arena.events("start")) >= 40, 15)
    family = family_of(worker.pid)
    send(family[1:] if child_only else family, signal.SIGSTOP)
    return family


# The store


def test_engine_killed_and_started_again(arena: Arena) -> None:
    for _ in range(2):
        arena.worker()
    arena.wait_ready(2)
    with arena.load(mixed(300), delay_s=2, over_s=14):
        for _ in range(3):
            wait(4)
            arena.engine.kill()
            wait(1.5)
            arena.engine.start()
    arena.wait_calm(45)
    assert arena.check().is_kept


def test_store_unreachable_for_20_s(arena: Arena) -> None:
    """First silent, then refusing."""
    workers = [arena.worker() for _ in range(2)]
    arena.wait_ready(2)
    arena.add_mixed(mixed(200), delay_s=2, over_s=16)
    arena.wait_for(lambda: len(arena.events("start")) > 20, 15)
    arena.set_plan(Plan(blackout="silence"))
    wait(10)
    arena.set_plan(Plan(blackout="reset"))
    wait(10)
    arena.set_plan(Plan())
    arena.wait_calm(60)
    findings = arena.check()
    assert findings.is_kept
    assert [worker.poll() for worker in workers] == [None, None], "they waited"


@pytest.mark.parametrize("fault", ["reset_after", "error_before", "silence_after"])
def test_a_worker_that_starts_while_the_store_fails_waits(arena: Arena, fault: str) -> None:
    """The first conditional write of a worker is as likely to fail as any other request."""
    warm_up = Rule(operation="UpdateItem", containing="warm-up", rates={fault: 1.0})
    arena.set_plan(Plan(rules=(warm_up,)))
    worker = arena.worker()
    arena.wait_for(lambda: "waiting for the store" in arena.log() or worker.poll(), 15)
    arena.set_plan(Plan())
    arena.add("Baz", 10)
    arena.wait_done(20)
    assert worker.poll() is None
    assert arena.check().is_kept


@pytest.mark.parametrize("percent", [5, 20])
def test_faults_on_every_operation(arena: Arena, percent: int) -> None:
    arena.set_plan(evenly(percent / 100))
    for _ in range(2):
        arena.worker()
    arena.add_mixed(mixed(400), delay_s=4, over_s=10)
    arena.wait_calm(50)
    findings = arena.check()
    tasks = arena.stored()
    say(f"{leases_lost(tasks)} leases lost, {len(arena.unknown)} creates of unknown outcome")
    assert findings.is_kept
    assert leases_lost(tasks) <= len(tasks) * 0.05, "lost answers cost no lease"
    committed = [task for task in tasks if task.state is TaskState.COMPLETED]
    assert len(arena.events("print")) >= len(committed) * 0.95, "lost answers cost no line"


def test_answers_to_writes_are_lost(arena: Arena) -> None:
    """Three of ten, after the write was applied: each is recognized when it is sent again."""
    lost = {"error_after": 0.1, "reset_after": 0.1, "silence_after": 0.1}
    arena.set_plan(Plan(rules=(Rule(operation="UpdateItem", rates=lost),)))
    arena.worker()
    arena.wait_ready(1)
    arena.add_mixed(mixed(300), delay_s=2, over_s=6)
    arena.wait_calm(40)
    findings = arena.check()
    tasks = arena.stored()
    assert findings.is_kept
    assert {task.state for task in tasks} == {TaskState.COMPLETED}
    assert leases_lost(tasks) <= len(tasks) * 0.1
    assert len(arena.events("print")) >= len(tasks) * 0.9


def test_claims_that_take_too_long_start_nothing(arena: Arena) -> None:
    """Most tries of a claim get no answer, so that many are granted late or never."""
    slow = {"black_hole": 0.65, "silence_after": 0.1}
    claims = Rule(operation="UpdateItem", containing='":claim"', rates=slow)
    arena.set_plan(Plan(rules=(claims,)))
    arena.worker()
    arena.wait_ready(1)
    arena.add("Baz", 150, delay_s=1.5)
    wait(15)
    arena.set_plan(Plan())
    arena.wait_calm(30)
    findings = arena.check()
    assert findings.is_kept
    assert findings.late_starts == 0
    assert "attempt left to its lease" in arena.log()


def test_a_settlement_that_arrives_after_the_next_claim(arena: Arena) -> None:
    """The store applies it, and all its repetitions, when another attempt runs."""
    first = arena.worker()
    arena.wait_ready(1)
    arena.add("Foo", 40, delay_s=1)
    arena.wait_for(lambda: len(arena.events("start")) >= 40, 15)
    settlements = Rule(operation="UpdateItem", containing=":was_claim", rates={"late": 1.0})
    arena.set_plan(Plan(rules=(settlements,), late_s=(8.0, 9.0)))
    arena.worker()
    wait(5)
    arena.kill(first)
    arena.set_plan(Plan())
    arena.wait_calm(40)
    findings = arena.check()
    tasks = arena.stored()
    assert findings.is_kept
    assert {task.state for task in tasks} == {TaskState.COMPLETED}
    assert sum(task.attempt > 1 for task in tasks) >= 30
    assert len(arena.events("print")) == 40


# Clocks


def lateness_ms(arena: Arena) -> list[float]:
    """Of the handlers' starts, by this machine's clock: whatever the worker took for the time."""
    wall_less_monotonic_ms = arena.clock.now_ms() - arena.clock.monotonic_s() * 1000
    return sorted(
        one.at_s * 1000 + wall_less_monotonic_ms - one.send_ts_ms for one in arena.events("start")
    )


@pytest.mark.parametrize(
    "skew_ms, after_s",
    [(900, 0.0), (-30_000, 0.0), (30_000, 11.0), (500, 11.0), (-500, 11.0)],
)
def test_a_wrong_clock_starts_nothing_early_nor_late(
    arena: Arena, skew_ms: int, after_s: float
) -> None:
    arena.worker(module=SKEWED, SKEW_MS=str(skew_ms), SKEW_AFTER_S=str(after_s))
    arena.worker()
    arena.wait_ready(2)
    wait(5)
    arena.add_mixed(["Baz"] * 240, delay_s=2.5, over_s=8)
    arena.wait_done(30)
    assert arena.check().is_kept
    processors = Counter(one.processor for one in arena.events("start"))
    assert len(processors) == 2, "both took part"
    late_ms = lateness_ms(arena)
    assert late_ms[0] > -100
    assert percentile(late_ms, 0.95) < 300
    if abs(skew_ms) > 1_000:
        assert '"clock_off"' in arena.log()


# More and fewer processes


def test_one_worker_then_four_then_one(arena: Arena) -> None:
    workers = [arena.worker()]
    arena.wait_ready(1)
    with arena.load(mixed(400), delay_s=2, over_s=18):
        wait(5)
        workers += [arena.worker() for _ in range(3)]
        wait(8)
        for worker in workers[:3]:
            worker.terminate()
        assert [worker.wait(10) for worker in workers[:3]] == [0, 0, 0]
    arena.wait_done(30)
    findings = arena.check()
    assert findings.is_kept
    assert len({one.processor for one in arena.events("start")}) == 4
    assert leases_lost(arena.stored()) == 0


def test_a_worker_drains_under_load(arena: Arena) -> None:
    leaving = arena.worker("--processes", "2")
    arena.worker()
    arena.wait_ready(3)
    with arena.load(mixed(300), delay_s=1.5, over_s=12):
        wait(6)
        began_s = arena.clock.monotonic_s()
        leaving.terminate()
        assert leaving.wait(10) == 0
        took_s = arena.clock.monotonic_s() - began_s
    arena.wait_done(30)
    findings = arena.check()
    assert findings.is_kept
    assert took_s < 7
    assert leases_lost(arena.stored()) == 0


def test_ticks_that_overlap_and_repeat(arena: Arena) -> None:
    """Two at the same instant and one more before they end, without any worker."""
    ticks = [arena.tick(24), arena.tick(24)]
    with arena.load(mixed(300), delay_s=2, over_s=14):
        wait(8)
        ticks.append(arena.tick(26))
    assert [tick.wait(35) for tick in ticks] == [0, 0, 0]
    arena.wait_done(1)
    findings = arena.check()
    assert findings.is_kept
    assert len({one.processor for one in arena.events("start")}) == 3


# Handlers


def test_handlers_that_go_wrong(arena: Arena) -> None:
    arena.worker("--processes", "2", module=ODD)
    arena.wait_ready(2)
    arena.add_mixed(mixed(80), delay_s=2, over_s=10)
    bad = {type: arena.add(type, 2, delay_s=3) for type in ("Exiting", "Raising", "Nonsense")}
    (greedy,) = arena.add("Greedy", delay_s=4)
    arena.wait_done(55)
    findings = arena.check()
    tasks = {task.id: task for task in arena.stored()}
    assert findings.is_kept
    assert tasks[greedy].state in FINISHED
    errors = {type: {tasks[id].error for id in ids} for type, ids in bad.items()}
    assert errors == {
        "Exiting": {"HandlerDied: the handler ended its process, exit code 3"},
        "Raising": {"ValueError: no"},
        "Nonsense": {"TypeError: a handler returns its line as str, this one returned list"},
    }
    good = [task for task in tasks.values() if task.type in MIX]
    assert {task.state for task in good} == {TaskState.COMPLETED}


# The API


@contextmanager
def api(arena: Arena) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """`chalice local` behind the proxy: its address and its process."""
    port = free_port()
    chalice = "import sys; from chalice.cli import main; sys.exit(main())"
    process = arena.start("-c", chalice, "local", "--no-autoreload", f"--port={port}")
    wait_for_port(port)
    yield f"http://127.0.0.1:{port}", process
    process.kill()
    process.wait()


def post(url: str, key: str, send_ts: str, timeout_s: float = 20) -> requests.Response:
    body = {"type": "Baz", "send_ts": send_ts}
    headers = {"Idempotency-Key": key}
    return requests.post(f"{url}/task", json=body, headers=headers, timeout=timeout_s)


def test_api_killed_between_its_writes(arena: Arena) -> None:
    """Rows without a task; half of the clients come again with their key."""
    send_ts = "2020-01-01T00:00:00Z"
    arena.worker()
    arena.wait_ready(1)
    with api(arena) as (url, process):
        assert requests.get(f"{url}/task", timeout=20).status_code == 200
        creates = Rule(
            operation="PutItem", containing="attribute_not_exists", rates={"black_hole": 1}
        )
        arena.set_plan(Plan(rules=(creates,)))
        clients = [
            threading.Thread(target=refused_post, args=(url, f"key-{n}", send_ts))
            for n in range(10)
        ]
        for client in clients:
            client.start()
        arena.wait_for(lambda: arena.faults()["by_fault"].get("PutItem:black_hole", 0) >= 10, 20)
        process.kill()
        for client in clients:
            client.join()
    assert arena.stored() == []
    assert rows_in(arena, "timeline") >= 20, "`open` and `all` of each"
    arena.set_plan(Plan())
    wait(3)
    with api(arena) as (url, _):
        answers = [post(url, f"key-{n}", send_ts) for n in range(5)]
        assert [answer.status_code for answer in answers] == [201] * 5
        arena.acknowledge([answer.json()["id"] for answer in answers])
        arena.wait_for(lambda: len(arena.stored()) == 5, 5)
        arena.wait_done(30)
        listed = requests.get(f"{url}/task", timeout=20).json()["tasks"]
        assert {task["state"] for task in listed} == {"completed"}
        assert len(listed) == 5, "rows without a task show nothing"
        again = [post(url, f"key-{n}", send_ts).status_code for n in range(5)]
        assert again == [200] * 5
    findings = arena.check()
    assert findings.is_kept
    assert findings.executions == 5


def refused_post(url: str, key: str, send_ts: str) -> None:
    """A client whose API dies."""
    with pytest.raises(requests.RequestException):
        post(url, key, send_ts)


def rows_in(arena: Arena, table: str) -> int:
    """Rows that lead to tasks, directories not counted."""
    rows = arena.client.items(scan(table, 0, 1, None))
    return sum("#" in row["at"]["S"] for row in rows)


# Overload

BURST = 20_000
RSS_MAX_MIB = 150


@pytest.mark.alone
def test_20_000_tasks_at_one_instant(arena: Arena) -> None:
    """Memory stays bounded, hearts go on beating, no lease runs out for lack of loop time."""
    due_ms = arena.clock.now_ms() + 25_000
    asyncio.run(arena.put_directly("Baz", BURST, due_ms))
    say(f"put with {(due_ms - arena.clock.now_ms()) / 1000:.1f} s left")
    worker = arena.worker("--processes", "2")
    arena.wait_ready(2)
    watch, done = Watch(arena), Done(arena.folder)
    wait(max(0.0, (due_ms - arena.clock.now_ms()) / 1000))
    began_s = arena.clock.monotonic_s()
    arena.wait_for(lambda: watch.look(worker) and done.look() >= BURST, 120, every_s=0.25)
    took_s = arena.clock.monotonic_s() - began_s
    arena.wait_done(10)
    findings = arena.check()
    say(f"{BURST / took_s:.0f} tasks/s, {watch.peak_mib} MiB at most, gap {watch.gap_s:.1f} s")
    assert findings.is_kept
    assert findings.executions == BURST
    assert leases_lost(arena.stored()) == 0
    assert watch.peak_mib < RSS_MAX_MIB
    assert watch.gap_s < 6, "every 5 s at least, however slow the store is"


class Watch:
    """The longest gap between heartbeats, and the most memory of a worker's process."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._beats: dict[str, tuple[str, float]] = {}
        self.gap_s = 0.0
        self.peak_mib = 0

    def look(self, worker: "subprocess.Popen[bytes]") -> bool:
        now_s = self._arena.clock.monotonic_s()
        rows = self._arena.client.items(query("workers", "fleet", FLEET))
        for row in rows:
            id, beat = row["processor"]["S"], row["beat_ms"]["N"]
            last, seen_s = self._beats.get(id, (beat, now_s))
            self.gap_s = max(self.gap_s, now_s - seen_s)
            self._beats[id] = (beat, seen_s if beat == last and id in self._beats else now_s)
        self.peak_mib = max(self.peak_mib, *map(peak_mib, children_of(worker.pid)))
        return True


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def test_a_short_chaos(arena: Arena) -> None:
    """What `make chaos` does for long."""
    findings = chaos.run(arena, tasks=3_000, seconds=45)
    assert findings.is_kept
    assert findings.executions >= 1_000
