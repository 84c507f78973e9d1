"""How soon tasks are claimed and started again whose worker process was killed."""

import os
import signal
import time
from collections.abc import Sequence
from random import Random

from bench import drive, machine, seed
from bench.drive import CLOCK, Options
from bench.machine import Broken, Engine, Workers
from bench.report import Row, quantile
from chalicelib.task import FINISHED
from local.evidence import Death
from local.history import Recovery, all_recoveries
from local.verify import Ledgers

PROCESSES = 3
RATE = 5.0
"""Tasks a second that take 3 s each: every process holds some at any time."""
TYPE = "Foo"
LEAD_S = 3.0
EVERY_S = 2.0
"""Between two deaths: some replacements die in turn before they are stable."""
HELD_FOR_S = 2.0
"""A task that was started less than this ago is not settled before its process is killed."""
PATIENCE_S = 60.0
GOAL_S = 1.5


def measure(options: Options) -> list[Row]:
    """One process after the other is killed while it holds tasks."""
    kills = max(1, round(options.rounds * options.spread_s / EVERY_S))
    with (
        machine.turn(options.lock),
        machine.engine() as engine,
        machine.workers(engine, PROCESSES, ledger=True) as workers,
    ):
        _seed(engine, (kills + 2) * EVERY_S)
        time.sleep(LEAD_S)
        rng = Random(options.rounds)
        deaths = [_kill_one(workers, rng) for _ in range(kills)]
        _wait_finished(engine)
        read = Ledgers.of([workers.ledger])
    found = all_recoveries(read.events, [*deaths, *read.deaths])
    return _rows(kills, [one for one in found if one.claimed_s is not None])


def _seed(engine: Engine, over_s: float) -> None:
    maker, count = seed.Maker(CLOCK.now_ms()), round(RATE * over_s)
    first_ms = CLOCK.now_ms() + round(LEAD_S * 1000)
    due_ms = drive.evenly(first_ms, over_s, count)
    seed.put(engine.port, engine.settings, [maker.task(at_ms, TYPE) for at_ms in due_ms])


def _kill_one(workers: Workers, rng: Random) -> Death:
    """SIGKILL one that holds tasks, after a while."""
    time.sleep(EVERY_S)
    until_s = time.monotonic() + PATIENCE_S
    while not (holding := _holding(workers)):
        if time.monotonic() > until_s:
            raise Broken("no process holds a task")
        time.sleep(machine.LOOK_S)
    pid = rng.choice(holding)
    death = Death(pid, time.monotonic())
    os.kill(pid, signal.SIGKILL)
    return death


def _holding(workers: Workers) -> list[int]:
    """Processes that live and hold tasks which they have just started."""
    events = Ledgers.of([workers.ledger]).events
    since_s = time.monotonic() - HELD_FOR_S
    settled = {event.claim for event in events if event.event == "settle"}
    held = {
        event.pid
        for event in events
        if event.event == "start" and event.at_s > since_s and event.claim not in settled
    }
    return sorted(held.intersection(machine.children_of(workers.process.pid)))


def _wait_finished(engine: Engine) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while any(task.state not in FINISHED for task in drive.stored(engine)):
        if time.monotonic() > until_s:
            raise Broken("not all tasks ran again")
        time.sleep(0.5)


def _rows(kills: int, found: Sequence[Recovery]) -> list[Row]:
    claimed_s = [one.claimed_s for one in found if one.claimed_s is not None]
    started_s = [one.started_s for one in found if one.started_s is not None]
    if not started_s:
        raise Broken("no task ran again")
    taken_over = sum(one.is_takeover for one in found)
    killed = f"{kills} times SIGKILL to one of {PROCESSES} processes that held tasks"
    return [
        Row(
            name="recovery, a process",
            what=f"{killed}; from the death to the last claim of what it held",
            figure=max(claimed_s),
            unit="s",
            goal=f"<= {GOAL_S:g}",
            met=max(claimed_s) <= GOAL_S,
            note=f"{_told(claimed_s)}; {taken_over} before their lease expired.",
            details={"claimed_s": sorted(claimed_s)},
        ),
        Row(
            name="recovery, its handlers",
            what="the same until the last handler started",
            figure=max(started_s),
            unit="s",
            goal="-",
            met=None,
            note=f"{_told(started_s)}. Each starts in a process of its own. A task that lost three"
            " leases waits for its back-off and is not in it.",
            details={"started_s": sorted(started_s)},
        ),
    ]


def _told(seconds: Sequence[float]) -> str:
    p50, p100 = quantile(seconds, 0.5), max(seconds)
    return f"p50 {p50:.2f} s, p100 {p100:.2f} s of {len(seconds)} tasks"
