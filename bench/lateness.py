"""How late tasks start that come one by one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from bench import api, drive, machine, peers
from bench.drive import Options
from bench.machine import Broken
from bench.report import Row, quantile
from chalicelib.config import Settings
from chalicelib.task import FINISHED

RATE = 50.0
AHEAD = "lateness p99, 50/s"
NOW = "lateness p99, now"
NOW_MS = 20.0
SOON_MS = 800
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
            name=AHEAD,
            what="start - send_ts at 50 tasks/s, one worker",
            figure=quantile(late, 0.99),
            unit="ms",
            goal="<= 10, p100 < 100",
            met=quantile(late, 0.99) <= 10 and max(late) < 100,
            note=f"{_percentiles(late)}, of {len(late)} tasks.",
            details={"lateness_ms": sorted(late)},
        ),
        *_created_now(options),
    ]
    return rows + _of_peers(options, {row.name: row.figure for row in rows})


def _of_peers(options: Options, ours: Mapping[str, float]) -> list[Row]:
    """ours: our figures by the names of rows, the yardsticks of the peers'."""
    rows, count = list[Row](), round(RATE * options.spread_s)
    for name in peers.NAMES if options.peers else ():
        for mode, row, yardstick in (
            ("ahead", f"lateness p99, {name}", AHEAD),
            ("now", f"{NOW}, {name}", NOW),
        ):
            theirs = peers.run(options, name, count, options.spread_s, mode=mode)
            what = f"{yardstick!r} of {name}, with our p99 as the yardstick"
            rows.append(_peer_row(row, what, theirs.lateness_ms, ours[yardstick]))
    return rows


def _peer_row(name: str, what: str, late: Sequence[float], ours: float) -> Row:
    return Row(
        name=name,
        what=what,
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


def _created_now(options: Options) -> list[Row]:
    """Tasks that API processes create for now, or for soon, at odd moments."""
    limit_ms = Settings().poll_interval_s * 1000 + SLACK_MS
    return [
        _now_row(options, "now", "created for now, one worker"),
        _now_row(options, "now, 4 APIs", "the same, 3 workers, 4 APIs", apis=4, workers=3),
        _now_row(options, "soon", "due in less than a poll interval", soon_ms=SOON_MS),
        _now_row(
            options, "now, no wake-up", "created for now, all messages lost", limit_ms, WAKEUP="off"
        ),
    ]


def _now_row(
    options: Options,
    name: str,
    what: str,
    goal_ms: float = NOW_MS,
    *,
    soon_ms: int = 0,
    apis: int = 1,
    workers: int = 1,
    **env: str,
) -> Row:
    late = _now_lateness(options, soon_ms, apis, workers, env)
    return Row(
        name=f"lateness p99, {name}",
        what=f"start - send_ts of tasks {what}, {RATE:.0f} a second, by POST /task",
        figure=quantile(late, 0.99),
        unit="ms",
        goal=f"<= {goal_ms:.0f}",
        met=quantile(late, 0.99) <= goal_ms,
        note=f"{_percentiles(late)}.",
        details={"lateness_ms": sorted(late)},
    )


def _now_lateness(
    options: Options, soon_ms: int, apis: int, workers: int, env: Mapping[str, str]
) -> list[float]:
    """Of tasks that so many API processes create, due within `soon_ms`."""
    count = round(RATE * options.spread_s) // apis
    with ExitStack() as stack:
        stack.enter_context(machine.turn(options.lock))
        engine = stack.enter_context(machine.engine())
        running = stack.enter_context(machine.workers(engine, workers))
        arguments = ["now", str(count), str(round(RATE / apis)), str(soon_ms)]
        started = [
            stack.enter_context(api.started(arguments, engine.port, **env)) for _ in range(apis)
        ]
        for one in started:
            one.go()
        running.wait_lines(apis * count, options.spread_s + 30)
        tasks = [task for task in drive.stored(engine) if task.state in FINISHED]
    late = [float(task.lateness_ms) for task in tasks if task.lateness_ms is not None]
    if len(late) != apis * count:
        raise Broken("a task has not started")
    return late
