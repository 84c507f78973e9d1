"""Workers run seeded tasks; what came of it is read from the records, the kernel and the edge."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from bench import machine, proxy, seed
from bench.machine import Broken, Engine, Workers
from chalicelib.clock import SystemClock
from chalicelib.store.alternator import requests
from chalicelib.task import Task, TaskState

CLOCK = SystemClock()
BEFORE_S = 3.0
"""CPU and requests are counted from here before the first task: reading hints ahead is part."""
AFTER_S = 4.0
"""Deletions wait for the end of a burst; all are made within this."""
SPREAD_AFTER_S = 1.0
"""The same where there is no backlog. Who comes one by one is counted from the first on: each
second has its share of polls."""
SEEDED_A_SECOND = 1_000
"""Seeding is counted on to be at least so fast; if it was not, all is done again."""
PATIENCE_S = 150.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """tasks: in a burst. rounds: how often what is compared is repeated. spread_s: how long tasks
    come one by one. lock: held while something is measured."""

    tasks: int = 10_000
    rounds: int = 3
    spread_s: float = 30.0
    peers: bool = False
    full: bool = False
    lock: Path | None = None


class Late(Exception):
    """The tasks were due before all of them were seeded."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run of workers over seeded tasks.

    rate: tasks a second from the due time (of a burst) to the last completion. last_start_ms: after
    it. worker_cpu_s, engine_cpu_s, requests: of a burst from `BEFORE_S` before the due time, to the
    last deletion. peak_mib: of the largest worker process.
    """

    tasks: Sequence[Task]
    rate: float
    lateness_ms: Sequence[int]
    last_start_ms: int
    worker_cpu_s: float
    engine_cpu_s: float
    peak_mib: float
    counts: Counter[str]
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def worker_us(self) -> float:
        return self.worker_cpu_s / len(self.tasks) * 1e6

    @property
    def engine_us(self) -> float:
        return self.engine_cpu_s / len(self.tasks) * 1e6

    @property
    def requests_a_task(self) -> float:
        return self.requests.total() / len(self.tasks)

    @property
    def lost_claims(self) -> float:
        """Share of the claims that another worker's had come before."""
        refused = self.counts["refused"]
        return refused / max(1, refused + self.counts["claimed"])

    def summary(self) -> dict[str, Any]:
        attempts = [task.attempt for task in self.tasks]
        return {
            "tasks": len(self.tasks),
            "rate": self.rate,
            "worker_us": self.worker_us,
            "engine_us": self.engine_us,
            "last_start_ms": self.last_start_ms,
            "attempts_max": max(attempts),
            "peak_mib": self.peak_mib,
            "counts": dict(self.counts),
            "requests": dict(self.requests),
        }


def burst(options: Options, processes: int, count: int, *, counted: bool = False) -> Outcome:
    """All due at one millisecond, on a fresh engine in memory."""
    lead_s = BEFORE_S + 1 + count / SEEDED_A_SECOND
    with machine.turn(options.lock):
        for _ in range(3):
            try:
                with machine.engine() as engine:
                    return run(engine, processes, count, lead_s=lead_s, counted=counted)
            except Late:
                lead_s *= 2
    raise Broken("seeding is too slow on this machine")


def spread(options: Options, rate: float, *, counted: bool = False) -> Outcome:
    """So many a second, one by one, for one worker."""
    count = round(rate * options.spread_s)
    with machine.turn(options.lock), machine.engine() as engine:
        over_s = options.spread_s
        return run(engine, 1, count, lead_s=BEFORE_S + 3, over_s=over_s, counted=counted)


def drain(
    engine: Engine, count: int, number: int, env: Mapping[str, str] = machine.NO_ENV
) -> Outcome:
    """A burst for one worker beside whatever the engine holds; number: of its own."""
    lead_s = BEFORE_S + 1 + count / SEEDED_A_SECOND
    for further in range(3):
        try:
            seed_ = 1 + 3 * number + further
            return run(engine, 1, count, lead_s=lead_s, maker_seed=seed_, env=env)
        except Late:
            lead_s *= 2
    raise Broken("seeding is too slow on this machine")


def run(
    engine: Engine,
    processes: int,
    count: int,
    *,
    lead_s: float,
    over_s: float = 0.0,
    counted: bool = False,
    maker_seed: int = 0,
    env: Mapping[str, str] = machine.NO_ENV,
) -> Outcome:
    """Seed tasks that are due after `lead_s`, evenly over `over_s`, and let workers run them.

    counted: whether requests are counted, by a proxy, which takes time. Raises Late.
    """
    with ExitStack() as stack:
        edge = stack.enter_context(proxy.counting(engine.port)) if counted else None
        port = (edge or engine).port
        workers = stack.enter_context(machine.workers(engine, processes, port=port, env=env))
        first_ms = CLOCK.now_ms() + round(lead_s * 1000)
        made = _seeded(engine, evenly(first_ms, over_s, count), maker_seed)
        _wait_for(first_ms, 0.0 if over_s else BEFORE_S)
        pids, before = workers.pids(), Used.now(workers, engine, edge)
        workers.wait_lines(count, BEFORE_S + over_s + PATIENCE_S)
        time.sleep(SPREAD_AFTER_S if over_s else AFTER_S)
        used = Used.now(workers, engine, edge).since(before)
        peak = max(map(machine.peak_mib, pids))
        workers.end()
    tasks = stored_under(engine, [task.id for task in made])
    return _outcome(tasks, count, first_ms, used, peak, workers.counts)


def evenly(first_ms: int, over_s: float, count: int) -> list[int]:
    """So many times over some seconds, in milliseconds since the epoch."""
    return [first_ms + round(n * over_s * 1000 / count) for n in range(count)]


def _seeded(engine: Engine, due_ms: Sequence[int], maker_seed: int) -> list[Task]:
    maker = seed.Maker(CLOCK.now_ms(), maker_seed)
    made = [maker.task(at_ms) for at_ms in due_ms]
    seed.put(engine.port, engine.settings, made)
    return made


def _wait_for(first_ms: int, before_s: float) -> None:
    """Sleep until so long before the first task is due. Raises Late if there is no time left."""
    left_s = (first_ms - CLOCK.now_ms()) / 1000 - before_s
    if left_s < BEFORE_S - before_s:
        raise Late
    time.sleep(left_s)


class Used(NamedTuple):
    """What was used so far. requests: empty where they are not counted."""

    worker_s: float
    engine_s: float
    requests: Counter[str]

    @classmethod
    def now(cls, workers: Workers, engine: Engine, edge: proxy.Counted | None) -> Self:
        return cls(workers.cpu_s(), engine.cpu_s(), edge.now() if edge else Counter())

    def since(self, before: Self) -> "Used":
        return Used(
            self.worker_s - before.worker_s,
            self.engine_s - before.engine_s,
            self.requests - before.requests,
        )


def _outcome(
    tasks: Sequence[Task],
    count: int,
    first_ms: int,
    used: Used,
    peak: float,
    counts: Counter[str],
) -> Outcome:
    completed = [task for task in tasks if task.state is TaskState.COMPLETED]
    if len(completed) != count:
        raise Broken(f"{len(completed)} of {count} tasks are completed")
    finished_ms = max(task.finished_ts_ms or 0 for task in tasks)
    return Outcome(
        tasks=tasks,
        rate=count / max(0.001, (finished_ms - first_ms) / 1000),
        lateness_ms=[task.lateness_ms or 0 for task in tasks],
        last_start_ms=max(task.started_ts_ms or 0 for task in tasks) - first_ms,
        worker_cpu_s=used.worker_s,
        engine_cpu_s=used.engine_s,
        peak_mib=peak,
        counts=counts,
        requests=used.requests,
    )


def stored_under(engine: Engine, ids: Sequence[str]) -> list[Task]:
    """The records of these tasks, however many others there are."""
    table = f"{engine.settings.table_prefix}tasks"
    keys = [{"id": {"S": id}} for id in ids]
    return [*map(requests.decode_task, engine.client.get_items(table, keys))]


def stored(engine: Engine, segment: int = 0, segments: int = 1) -> list[Task]:
    """All records."""
    scan = requests.scan(f"{engine.settings.table_prefix}tasks", segment, segments, None)
    return [*map(requests.decode_task, engine.client.items(scan))]
