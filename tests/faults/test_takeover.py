"""How soon the tasks of a worker's process that died are claimed again: its place is taken at once.

The processes die in each of the ways there are: by SIGKILL, by their own exit, for the memory they
take, by the supervisor's watchdog; one after the other, and those that follow them too.
"""

import os
import re
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.machine import children_of
from chalicelib.task import TaskState
from local.findings import percentile
from local.history import all_recoveries
from local.verify import Ledgers
from tests.faults.arena import Arena, say

pytestmark = [pytest.mark.faults, pytest.mark.wall_clock]

ODD = "tests.support.odd_worker"
PROCESSES = 3
WITHIN_S = 5.0
"""Half a lease: on a busy machine even a death is noticed late. How long it took is told; the bench
holds it against its goal."""
MEMORY_MAX_MIB = 200
"""What takes more is killed, as the kernel does it in a container."""
DEATHS = int(os.environ.get("DEATHS") or 60)
WAYS = {"SIGKILL": 0.35, "Leaving": 0.3, "Hungry": 0.2, "Stuck": 0.15}
"""The share of deaths of each way; but for the first, by a task of this type."""
EVERY_S = 2.0


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


@dataclass
class Reaper:
    """Kills processes of a worker, and notes when. killed: by pid, the way."""

    arena: Arena
    worker: "subprocess.Popen[bytes]"
    killed: dict[int, str] = field(default_factory=dict)

    def kill(self, pid: int, way: str) -> None:
        self.killed[pid] = way
        self.arena.kill_children([pid])

    def kill_any(self) -> None:
        while not (
            alive := [pid for pid in children_of(self.worker.pid) if pid not in self.killed]
        ):
            wait(0.05)
        self.kill(self.arena.rng.choice(alive), "SIGKILL")

    @contextmanager
    def memory_limit(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                for pid in children_of(self.worker.pid):
                    if pid not in self.killed and rss_mib(pid) > MEMORY_MAX_MIB:
                        self.kill(pid, "Hungry")

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()


def rss_mib(pid: int) -> int:
    """0 if it is gone."""
    with suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return 0


def ways_of(arena: Arena, killed: Mapping[int, str]) -> dict[int, str]:
    """How each process died, by pid."""
    log = arena.log()
    stuck = re.findall(r'outlived its deadline.*"pid": (\d+)', log)
    ended = re.findall(r'ended with code (-?\d+)".*"pid": (\d+)', log)
    left = {int(pid): "Leaving" for code, pid in ended if code == "3"}
    return left | {int(pid): "Stuck" for pid in stuck} | dict(killed)


def say_how_soon(arena: Arena, ways: Mapping[int, str]) -> None:
    """From each death to the next claims, and to the next starts of handlers."""
    read = Ledgers.of(arena.folder.glob("*.ledger"))
    claims, starts = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for recovery in all_recoveries(read.events, read.deaths):
        if recovery.claimed_s is not None:
            claims[ways[recovery.pid]].append(recovery.claimed_s)
        if recovery.started_s is not None:
            starts[ways[recovery.pid]].append(recovery.started_s)
    for way, count in sorted(Counter(ways.values()).items()):
        say(f"{way}: {count} deaths; claims {told(claims[way])}; starts {told(starts[way])}")
    every = [one for some in claims.values() for one in some]
    say(f"all: {len(ways)} deaths; claims {told(every)}")


def told(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p90, p100 = (percentile(seconds, share) for share in (0.5, 0.9, 1.0))
    return f"{len(seconds)}, p50 {p50:.2f} s p90 {p90:.2f} s p100 {p100:.2f} s"


@pytest.mark.alone
def test_deaths_of_processes_that_are_replaced(arena: Arena) -> None:
    """On the engine itself: no fault is asked for but these."""
    endpoint = arena.direct.endpoints[0]
    options = ("--processes", str(PROCESSES))
    worker = arena.worker(*options, module=ODD, ALTERNATOR_ENDPOINTS=endpoint)
    arena.wait_ready(PROCESSES)
    reaper = Reaper(arena, worker)
    ways = [way for way, share in WAYS.items() for _ in range(round(share * DEATHS))]
    arena.rng.shuffle(ways)
    load = ["Brief", "Baz", "Brief"] * len(ways)
    with reaper.memory_limit(), arena.load(load, delay_s=1, over_s=len(ways) * EVERY_S):
        for way in ways:
            wait(EVERY_S)
            reaper.kill_any() if way == "SIGKILL" else arena.add(way)
    arena.wait_done(200)
    findings = arena.check(recovered_within_s=WITHIN_S)
    died = ways_of(arena, reaper.killed)
    say_how_soon(arena, died)
    assert findings.is_kept
    assert len(died) >= 0.9 * len(ways), "of those that are killed at once one dies for two"
    assert len(findings.recovery_from_death_s) >= 0.9 * len(ways) - ways.count("SIGKILL")
    assert findings.overlaps == 0
    assert {task.state for task in arena.stored()} <= {TaskState.COMPLETED, TaskState.FAILED}
