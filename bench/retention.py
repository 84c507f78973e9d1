"""Whether exactly what was kept long enough goes, what that costs, and what runs beside it."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench import drive, machine, proxy, seed
from bench.drive import CLOCK, Options, Outcome
from bench.machine import Broken, Engine
from bench.report import Row, middle
from chalicelib.config import Settings
from chalicelib.store.alternator import progress, requests, rows
from chalicelib.store.alternator.places import Indexes
from chalicelib.task import Task
from local.store_check import RowFindings, check_rows

OLD, PENDING = 20, 5
"""So many times the tasks of a burst."""
FAILED_EACH, LATE_EACH = 50, 4
"""Of so many old ones one failed; beside so many of one hour one finished lately, and stays."""
SEED = 10_000
"""Those of bursts are smaller."""
DAY_MS = 86_400_000
OLD_DAYS, RETENTION_DAYS = 40, 30
RATE = 100_000
"""SWEEP_RATE while rounds are let end: so much that the store sets the pace."""
WITHOUT = {"RETENTION_DAYS": "0", "SWEEP_RATE": "10"}
WITH = {"RETENTION_DAYS": str(RETENTION_DAYS)}
ROUNDS_MAX = 6
PASSES = ("all", "failed", "tasks")
PATIENCE_S = 1_200.0
LOOK_S = 0.5
AHEAD = 0.9


@dataclass
class Swept:
    """What rounds took."""

    seconds: float = 0.0
    engine_s: float = 0.0
    worker_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)


def measure(options: Options) -> list[Row]:
    """One store: bursts with the sweep and without in turn, then whole rounds, then the check."""
    with machine.folder() as folder, machine.engine(folder / "kept.db") as engine:
        with machine.turn(options.lock):
            gone, stay = _filled(options, engine)
        bursts = _bursts(options, engine)
        stay |= {task.id for outcomes in bursts.values() for o in outcomes for task in o.tasks}
        first, further = Swept(), Swept()
        with machine.turn(options.lock):
            _round(engine, first)
            tasks = drive.stored(engine)
            left, needed = {task.id for task in tasks}, _needed(engine, tasks)
            findings = check_rows(engine.settings, CLOCK)
            names = [_drained(engine, needed)]
            while names[-1] and len(names) < ROUNDS_MAX:
                _round(engine, further)
                names.append(_drained(engine, needed))
    return [
        _burst_row(bursts),
        _gone_row(gone, left, first, names),
        _left_row(stay, left, findings),
        *_cost_rows(gone, first),
    ]


def _filled(options: Options, engine: Engine) -> tuple[set[str], set[str]]:
    """The ids of those that are to go, and of those that are to stay."""
    now_ms = CLOCK.now_ms()
    maker, gone, stay = seed.Maker(now_ms, SEED), set[str](), set[str]()
    old, pending = OLD * options.tasks, PENDING * options.tasks

    def tasks() -> Iterator[Task]:
        for number in range(old):
            at_ms = now_ms - OLD_DAYS * DAY_MS - number * DAY_MS // old
            task = maker.finished(at_ms) if number % FAILED_EACH else maker.failed(at_ms)
            gone.add(task.id)
            yield task
            if number % LATE_EACH == 0 and number < old // 24:
                late = replace(maker.finished(now_ms - DAY_MS), send_ts_ms=at_ms)
                stay.add(late.id)
                yield late
        for number in range(pending):
            task = maker.task(now_ms + DAY_MS + number * DAY_MS // pending)
            stay.add(task.id)
            yield task

    seed.put(engine.port, engine.settings, tasks())
    return gone, stay


def _bursts(options: Options, engine: Engine) -> dict[str, list[Outcome]]:
    """In turn. Each worker has begun to sweep some seconds before its burst."""
    bursts: dict[str, list[Outcome]] = {"without": [], "with": []}
    for number in range(options.rounds):
        for turn, (name, env) in enumerate((("without", WITHOUT), ("with", WITH))):
            with machine.turn(options.lock):
                outcome = drive.drain(engine, options.tasks, 2 * number + turn, env)
            bursts[name].append(outcome)
    return bursts


def _round(engine: Engine, swept: Swept) -> None:
    """One more of each pass, by a worker of its own: one process rests between two."""
    before, cpu_s, started_s = _numbers(engine), engine.cpu_s(), time.monotonic()
    env = WITH | {"SWEEP_RATE": str(RATE)}
    with (
        proxy.counting(engine.port) as edge,
        machine.workers(engine, 1, port=edge.port, env=env) as worker,
    ):
        while any(_numbers(engine).get(name, 1) == before.get(name, 1) for name in PASSES):
            if time.monotonic() > started_s + PATIENCE_S:
                raise Broken(f"a round has not ended in {PATIENCE_S:.0f} s: {_numbers(engine)}")
            time.sleep(LOOK_S)
        swept.worker_s += worker.cpu_s()
        swept.requests += edge.now()
        worker.end()
    swept.seconds += time.monotonic() - started_s
    swept.engine_s += engine.cpu_s() - cpu_s


def _numbers(engine: Engine) -> dict[str, int]:
    """Of the round of each pass that is under way."""
    table = f"{engine.settings.table_prefix}workers"
    stored = engine.client.run(progress.stored(engine.client.requester, table))
    return {one.name: one.number for one in stored}


def _needed(engine: Engine, tasks: Sequence[Task]) -> set[tuple[str, str]]:
    """Keys of the names of buckets in which these tasks are."""
    indexes = Indexes(engine.settings.table_prefix, engine.settings.shards)
    return {(row.slot, row.at) for task in tasks for row in indexes.names(task)}


def _drained(engine: Engine, needed: set[tuple[str, str]]) -> int:
    """Names of buckets that are older than what is kept, and in which no task is."""
    before = rows.time_key(CLOCK.now_ms() - RETENTION_DAYS * DAY_MS)
    scan = requests.scan(f"{engine.settings.table_prefix}timeline", 0, 1, None)
    stored = ((item["slot"]["S"], rows.at_of(item)) for item in engine.client.items(scan))
    old = [row for row in stored if "#" not in row[1] and row[1] < before]
    return len(set(old) - needed)


def _burst_row(bursts: dict[str, list[Outcome]]) -> Row:
    rates = {name: [o.rate for o in outcomes] for name, outcomes in bursts.items()}
    beside, alone = middle(rates["with"]), middle(rates["without"])
    return Row(
        name="burst, retention",
        what="tasks a second of a burst, one process that sweeps meanwhile",
        figure=beside,
        unit="/s",
        goal=f">= {AHEAD}",
        met=beside / alone >= AHEAD,
        yardstick="without",
        yardstick_figure=alone,
        note=f"SWEEP_RATE={Settings().sweep_rate}, the default; without: {_said(WITHOUT)}."
        " Medians of rounds in turn.",
        details=rates,
    )


def _said(env: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in env.items())


def _gone_row(gone: set[str], left: set[str], first: Swept, names: Sequence[int]) -> Row:
    return Row(
        name="retention, gone",
        what=f"tasks that finished {OLD_DAYS} days ago and are gone after a round",
        figure=len(gone - left),
        unit="",
        goal=f"{len(gone):,}",
        met=not gone & left,
        note=f"The round took {first.seconds:.0f} s with SWEEP_RATE={RATE}. Names of drained"
        f" buckets after each round: {', '.join(map(str, names))}.",
        details={"seconds": first.seconds, "names": [*names]},
    )


def _left_row(stay: set[str], left: set[str], findings: RowFindings) -> Row:
    return Row(
        name="retention, left",
        what="tasks that are left: pending ones, and those that finished lately",
        figure=len(left),
        unit="",
        goal=f"exactly these {len(stay):,}",
        met=left == stay and findings.is_kept,
        note=f"Each has exactly its rows, and there are no others: {findings.line()}.",
        details={"breaches": [str(breach) for breach in findings.breaches[:20]]},
    )


def _cost_rows(gone: set[str], swept: Swept) -> Sequence[Row]:
    details: dict[str, Any] = {"requests": dict(swept.requests), "engine_s": swept.engine_s}
    return [
        Row(
            name="requests, retention",
            what="store requests a task that is deleted, of all that this round sends",
            figure=swept.requests.total() / len(gone),
            unit="a task",
            goal="-",
            met=None,
            note=", ".join(f"{action} {n:,}" for action, n in swept.requests.most_common()) + ".",
            details=details,
        ),
        Row(
            name="engine CPU, retention",
            what="engine CPU a task that is deleted",
            figure=swept.engine_s / len(gone) * 1000,
            unit="ms",
            goal="-",
            met=None,
            note=f"The processor that sweeps takes {swept.worker_s / len(gone) * 1000:.2f} ms.",
            details=details,
        ),
    ]
