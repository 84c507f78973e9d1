"""`python -m tests.faults.chaos`: a long run under every fault at once, judged at its end.

CHAOS_TASKS and CHAOS_SEED make another run, CHAOS_SECONDS bounds it. Exit 0 if the promise was
kept. The faults of the proxy and what befalls the processes follow from the seed; when they hit is
up to the machine.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.machine import children_of
from chalicelib.api.wakeups import WakeUps
from local.findings import Findings
from tests.faults.arena import CLIENTS, Arena, Done, family_of, opened, say, send
from tests.faults.plan import Plan, evenly
from tests.faults.post import BadPost
from tests.support.cluster import is_there

FAULT_RATE = 0.04
WORKERS = 2
PROCESSES = 2
"""Of each worker."""
TICK_S = 40.0
TICK_EVERY_S = 25.0
MIX = ("Baz",) * 8 + ("Foo", "Bar")
AHEAD_MAX = 2_000
"""No more tasks than this are kept waiting to run."""
AHEAD_MS = 4_000
"""Tasks are due at most this long after their creation."""
FIRST_AFTER_S = 5.0
EVERY_S = (1.0, 6.0)
"""Between two misfortunes."""
CALM_S = 180.0
"""Within this time after the last misfortune all must be done."""
REPORT_EVERY_S = 30.0


@dataclass
class Chaos:
    """Keeps workers and ticks running and lets things happen to them."""

    arena: Arena
    rng: Random
    happened: Counter[str] = field(default_factory=Counter)
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    ticks: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    stopped: list[tuple[float, list[int]]] = field(default_factory=list)
    tick_at_s: float = 0.0

    def start(self) -> None:
        self.workers = [self._new_worker() for _ in range(WORKERS)]

    def _new_worker(self) -> "subprocess.Popen[bytes]":
        return self.arena.worker("--processes", str(PROCESSES))

    def happen(self) -> None:
        """One misfortune, drawn."""
        misfortunes: dict[Callable[[], None], int] = {
            self.kill_worker: 5,
            self.kill_process: 8,
            self.stop_worker: 5,
            self.kill_engine: 1,
            self.black_out: 1,
            self.kill_tick: 2,
        }
        what = self.rng.choices([*misfortunes], [*misfortunes.values()])[0]
        what()
        self.happened[what.__name__] += 1

    def kill_worker(self) -> None:
        self.arena.kill(self.workers.pop(self.rng.randrange(len(self.workers))))
        self.workers.append(self._new_worker())

    def kill_process(self) -> None:
        """One or more of a worker's, also stopped ones: their supervisor replaces them."""
        living = [*filter(is_there, children_of(self.rng.choice(self.workers).pid))]
        chosen = self.rng.sample(living, min(len(living), self.rng.randint(1, PROCESSES)))
        self.arena.kill_children(chosen)
        self.happened["processes_killed"] += len(chosen)

    def stop_worker(self) -> None:
        """The children alone, or with their supervisor; for less than a lease, or for longer."""
        family = family_of(self.rng.choice(self.workers).pid)
        chosen = family if self.rng.random() < 0.5 else family[1:]
        until_s = self.arena.clock.monotonic_s() + self.rng.uniform(0.5, 14.0)
        send(chosen, signal.SIGSTOP)
        self.stopped.append((until_s, chosen))

    def kill_engine(self) -> None:
        self.arena.engine.kill()
        wait(self.rng.uniform(0.1, 1.5))
        self.arena.engine.start()

    def black_out(self) -> None:
        how = self.rng.choice(["silence", "reset"])
        self.arena.set_plan(Plan(blackout=how))
        wait(self.rng.uniform(0.5, 4.0))
        self.arena.set_plan(evenly(FAULT_RATE))

    def kill_tick(self) -> None:
        if self.ticks:
            self.arena.kill(self.ticks.pop(self.rng.randrange(len(self.ticks))))

    def look_after(self) -> None:
        """Wake who has been stopped for long enough; the next tick, when it is time.

        Raises RuntimeError if a worker ended by itself.
        """
        if any(worker.poll() is not None for worker in self.workers):
            raise RuntimeError(self.arena.log()[-5_000:])
        now_s = self.arena.clock.monotonic_s()
        over = [entry for entry in self.stopped if entry[0] <= now_s]
        for entry in over:
            self.stopped.remove(entry)
            send(entry[1], signal.SIGCONT)
        self.ticks = [tick for tick in self.ticks if tick.poll() is None]
        if now_s >= self.tick_at_s:
            self.tick_at_s = now_s + TICK_EVERY_S
            self.ticks.append(self.arena.tick(TICK_S))

    def calm_down(self) -> None:
        for _, pids in self.stopped:
            send(pids, signal.SIGCONT)
        self.stopped.clear()


class Adding:
    """Clients that create tasks through the proxy, never too far ahead of what is done."""

    def __init__(self, arena: Arena, tasks: int) -> None:
        self._arena = arena
        self._tasks = tasks
        self._rng = Random(arena.rng.random())
        self._drawing = threading.Lock()
        self._over = threading.Event()
        self._errors: list[Exception] = []
        self.drawn = 0
        self.done = Done(arena.folder)
        self._threads = [threading.Thread(target=self._add) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def goes_on(self) -> bool:
        """Raises what ended a client."""
        if self._errors:
            raise self._errors[0]
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _add(self) -> None:
        try:
            while not self._over.is_set() and (drawn := self._next()) is not None:
                type, delay_ms = drawn
                self._arena.create(type, self._arena.clock.now_ms() + delay_ms)
                while self.drawn - self.done.count > AHEAD_MAX and not self._over.is_set():
                    self._over.wait(0.5)
        except Exception as error:
            self._errors.append(error)

    def _next(self) -> tuple[str, int] | None:
        with self._drawing:
            if self.drawn == self._tasks:
                return None
            self.drawn += 1
            return self._rng.choice(MIX), self._rng.randrange(AHEAD_MS)


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def run(arena: Arena, tasks: int, seconds: float) -> Findings:
    """Tasks come and things happen until all were created; then all must get done."""
    arena.set_plan(evenly(FAULT_RATE))
    post = BadPost(Random(arena.rng.random()))
    sender = post.sender(arena.settings, arena.clock)
    arena.wakeups = WakeUps(arena.store, sender, arena.clock, arena.settings)
    chaos = Chaos(arena, arena.rng)
    chaos.start()
    adding = Adding(arena, tasks)
    try:
        _play(chaos, adding, seconds)
    finally:
        adding.end()
        chaos.calm_down()
        post.close()
    arena.wait_calm(CALM_S, every_s=2.0)
    findings = arena.check()
    say(f"happened: {dict(sorted(chaos.happened.items()))}, {len(arena.unknown)} creates unknown")
    say(f"taken over: {findings.taken_over} tasks")
    say(f"wake-up messages: {dict(sorted(post.fates.items()))}")
    stored = arena.stored()
    say(f"stored: {dict(sorted(Counter(task.state.value for task in stored).items()))}")
    say(f"failed by: {dict(Counter(task.error for task in stored if task.state == 'failed'))}")
    return findings


def _play(chaos: Chaos, adding: Adding, seconds: float) -> None:
    clock = chaos.arena.clock
    began_s = report_at_s = clock.monotonic_s()
    happens_at_s = began_s + FIRST_AFTER_S
    while adding.goes_on() and (now_s := clock.monotonic_s()) < began_s + seconds:
        wait(0.2)
        chaos.look_after()
        adding.done.look()
        if now_s >= happens_at_s:
            chaos.happen()
            happens_at_s = clock.monotonic_s() + chaos.rng.uniform(*EVERY_S)
        if now_s >= report_at_s:
            report_at_s = now_s + REPORT_EVERY_S
            say(f"{now_s - began_s:.0f} s: {adding.drawn} tasks, {adding.done.count} finished")


def main() -> int:
    tasks = int(os.environ.get("CHAOS_TASKS") or 100_000)
    seed = int(os.environ.get("CHAOS_SEED") or 1)
    seconds = float(os.environ.get("CHAOS_SECONDS") or 3_600)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(f"seed {seed}, {tasks} tasks, at most {seconds:g} s")
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    say(f"evidence, kept unless the promise is: {folder}")
    with opened(folder, seed=seed) as arena:
        findings = run(arena, tasks, seconds)
    if findings.is_kept:
        shutil.rmtree(folder)
    return 0 if findings.is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
