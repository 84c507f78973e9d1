"""How late tasks start that come one by one."""

import time
import uuid
from collections.abc import Sequence

from bench import drive, machine, peers
from bench.drive import CLOCK, Options
from bench.machine import Broken
from bench.report import Row, quantile
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.task import Task

RATE = 50.0
NOW_RATE = 20.0
SLACK_MS = 20.0


def measure(options: Options) -> list[Row]:
    counted = drive.spread(options, RATE, counted=True)
    late = drive.spread(options, RATE).lateness_ms
    rows = [
        Row(
            name="requests, spread",
            what="store requests to run a task at 50/s, one worker, counted at the store's edge",
            figure=counted.requests_a_task,
            unit="a task",
            goal="<= 2.6",
            met=counted.requests_a_task <= 2.6,
            note="Claim, complete, clean-up, and all polls and heartbeats of the time.",
            details=counted.summary(),
        ),
        Row(
            name="lateness p99, 50/s",
            what="start - send_ts at 50 tasks/s, one worker",
            figure=quantile(late, 0.99),
            unit="ms",
            goal="<= 10, p100 < 100",
            met=quantile(late, 0.99) <= 10 and max(late) < 100,
            note=f"{_percentiles(late)}, of {len(late)} tasks.",
            details={"lateness_ms": sorted(late)},
        ),
        _created_now(options),
    ]
    for name in peers.NAMES if options.peers else ():
        theirs = peers.run(options, name, round(RATE * options.spread_s), options.spread_s)
        rows.append(_peer_row(name, theirs.lateness_ms, quantile(late, 0.99)))
    return rows


def _peer_row(name: str, late: Sequence[float], ours: float) -> Row:
    return Row(
        name=f"lateness p99, {name}",
        what=f"the same of {name}, with our p99 as the yardstick",
        figure=quantile(late, 0.99),
        unit="ms",
        goal="-",
        met=None,
        yardstick="ours",
        yardstick_figure=ours,
        note=f"{_percentiles(late)}. A task's note of when it ended stands for its start.",
        details={"lateness_ms": sorted(late)},
    )


def _percentiles(late: Sequence[float]) -> str:
    shown = {"p50": quantile(late, 0.5), "p99": quantile(late, 0.99), "p100": max(late)}
    return ", ".join(f"{name} {value:.0f} ms" for name, value in shown.items())


def _created_now(options: Options) -> Row:
    """Tasks created with the time of their creation, at odd moments of the poll interval."""
    count = round(NOW_RATE * options.spread_s)
    with machine.turn(options.lock), machine.engine() as engine:
        interval_s = engine.settings.poll_interval_s
        with machine.workers(engine, 1) as workers:
            _create(engine, count)
            workers.wait_lines(count, 30)
        late = [task.lateness_ms for task in drive.stored(engine)]
    if None in late:
        raise Broken("a task has not started")
    known = [ms for ms in late if ms is not None]
    limit_ms = interval_s * 1000 + SLACK_MS
    return Row(
        name="lateness p99, now",
        what="start - send_ts of tasks created for now, one worker",
        figure=quantile(known, 0.99),
        unit="ms",
        goal=f"<= {limit_ms:.0f}",
        met=quantile(known, 0.99) <= limit_ms,
        yardstick="poll interval",
        yardstick_figure=interval_s * 1000,
        note=f"{_percentiles(known)}. What the interval costs when idle: see the idle fleet.",
        details={"lateness_ms": sorted(known), "poll_interval_s": interval_s},
    )


def _create(engine: machine.Engine, count: int) -> None:
    """So many tasks for now, one after another."""
    store = AlternatorTaskStore(engine.client, CLOCK, shards=engine.settings.shards)
    for _ in range(count):
        now_ms = CLOCK.now_ms()
        store.create(
            Task.new(
                id=str(uuid.uuid4()),
                type="Baz",
                send_ts_ms=now_ms,
                now_ms=now_ms,
                token=str(uuid.uuid4()),
            )
        )
        time.sleep(1 / NOW_RATE)
