"""Whether a task costs the same however many others lie in the tables."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import drive, machine, proxy, seed
from bench.drive import CLOCK, Options, Outcome
from bench.machine import Engine
from bench.report import Row, middle
from chalicelib.processing.sweep_timer import SWEEP_INTERVAL_MS
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.task import Task

SHARE = 10
"""The size by default is so many times the tasks of a burst."""
FULL_SIZE = 1_000_000
BURST_SHARE = 5
DRAINS = 3
"""Of each size a round: a burst is over within a second, and no two are alike."""
FLAT = 1.1
SWEEPS = 60
"""Sweeps that would see every task."""
IDLE_S = 15.0
SETTLED_S = 2.0
START_S = 5.0
"""A worker has started within this."""
DAY_MS = 86_400_000


@dataclass
class Measured:
    """What was measured beside so many others: one figure a round, `drains` of DRAINS a round."""

    filled_s: float
    drains: list[Outcome] = field(default_factory=list)
    polls: list[dict[str, float]] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)


def measure(options: Options) -> list[Row]:
    """Engines on files, one a size, that take turns: each as many pending as finished tasks."""
    sizes = [0, SHARE * options.tasks, *([FULL_SIZE] if options.full else [])]
    count = max(1, options.tasks // BURST_SHARE)
    with ExitStack() as stack:
        folder = stack.enter_context(machine.folder())
        engines = {
            size: stack.enter_context(machine.engine(folder / f"{size}.db")) for size in sizes
        }
        found = {size: Measured(_fill(options, engines[size], size)) for size in sizes}
        for number in range(options.rounds * DRAINS):
            for size, engine in engines.items():
                with machine.turn(options.lock):
                    found[size].drains.append(drive.drain(engine, count, number))
        for _ in range(options.rounds):
            for size, engine in engines.items():
                with machine.turn(options.lock):
                    found[size].polls.append(_poll(engine))
                    found[size].sweeps.append(_sweep(engine, _swept(size)))
    sweeps = {size: middle(one.sweeps) for size, one in found.items() if size}
    return [_drain_row(found), *_poll_rows(found), _sweep_row(sweeps)]


def _drain_row(found: Mapping[int, Measured]) -> Row:
    return _row(
        "drain, growing",
        "tasks a second of a burst, file engine",
        "/s",
        {size: [o.rate for o in one.drains] for size, one in found.items()},
        {
            "worker_us": {str(n): [o.worker_us for o in one.drains] for n, one in found.items()},
            "engine_us": {str(n): [o.engine_us for o in one.drains] for n, one in found.items()},
            "filled_s": {str(n): one.filled_s for n, one in found.items()},
        },
        more_is_better=True,
    )


def _poll_rows(found: Mapping[int, Measured]) -> list[Row]:
    def of(key: str) -> dict[int, list[float]]:
        return {size: [poll[key] for poll in one.polls] for size, one in found.items()}

    return [
        _row(
            "poll cost, growing",
            "engine CPU of an idle worker",
            "ms/s",
            of("engine_ms"),
            {},
            of_rounds=min,
        ),
        _row("polls, growing", "requests of an idle worker", "/s", of("requests"), {}),
    ]


def _fill(options: Options, engine: Engine, size: int) -> float:
    """Pending ones due over the next days, finished ones of the days before."""
    started_s = time.monotonic()
    now_ms = CLOCK.now_ms()
    maker = seed.Maker(now_ms, seed=size)

    def others() -> Iterator[Task]:
        for number in range(size):
            away_ms = DAY_MS // 4 + number * DAY_MS // max(1, size)
            yield maker.task(now_ms + away_ms)
            yield maker.finished(now_ms - away_ms)

    with machine.turn(options.lock):
        seed.put(engine.port, engine.settings, others())
    return time.monotonic() - started_s


def _poll(engine: Engine) -> dict[str, float]:
    """Between two sweeps: what these cost is measured by itself."""
    minute_s = SWEEP_INTERVAL_MS / 1000
    into_s = CLOCK.now_ms() / 1000 % minute_s
    if into_s > minute_s - START_S - SETTLED_S - IDLE_S:
        time.sleep(minute_s - into_s)
    with (
        proxy.counting(engine.port) as edge,
        machine.workers(engine, 1, port=edge.port),
    ):
        time.sleep(SETTLED_S)
        before, cpu_s, started_s = edge.now(), engine.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        seconds = time.monotonic() - started_s
        return {
            "requests": (edge.now() - before).total() / seconds,
            "engine_ms": (engine.cpu_s() - cpu_s) / seconds * 1000,
        }


def _swept(size: int) -> int:
    """Rows that are swept beside so many pending and as many finished tasks."""
    return max(1, 2 * size // SWEEPS)


def _sweep(engine: Engine, count: int) -> float:
    """CPU of the engine, in seconds, while so many rows are swept."""

    async def sweep() -> None:
        queue = AlternatorTaskQueue.open(engine.settings, CLOCK)
        try:
            await queue.sweep_some(count, now_ms=CLOCK.now_ms())
        finally:
            await queue.close()

    before_s = engine.cpu_s()
    asyncio.run(sweep())
    return engine.cpu_s() - before_s


def _sweep_row(by_size: dict[int, float]) -> Row:
    """A sweep reads its share of all tasks: what grows with them, and how fast."""
    shares = {size: _swept(size) / 1000 for size in by_size}
    costs = {size: cpu_s * 1000 / shares[size] for size, cpu_s in by_size.items()}
    most, least = max(costs), min(costs)
    return Row(
        name="sweep",
        what="engine CPU of the slow sweep, a thousand tasks",
        figure=costs[most],
        unit="ms",
        goal="-",
        met=None,
        yardstick=f"beside {least:,}",
        yardstick_figure=costs[least],
        note=f"Beside {most:,} pending and as many finished tasks {_swept(most):,} of them"
        f" take {by_size[most]:.2f} s of engine CPU.",
        details={"cpu_s": {str(size): cpu_s for size, cpu_s in by_size.items()}},
    )


def _row(
    name: str,
    what: str,
    unit: str,
    by_size: dict[int, list[float]],
    details: dict[str, Any],
    *,
    more_is_better: bool = False,
    of_rounds: Callable[[Sequence[float]], float] = middle,
) -> Row:
    """of_rounds: min for what is so small that other work on the machine decides the middle."""
    chosen = {size: of_rounds(values) for size, values in by_size.items()}
    most = max(chosen)
    figure, least = chosen[most], chosen[0]
    ratio = figure / least if least else 1.0
    return Row(
        name=name,
        what=f"{what}, beside {most:,} pending and {most:,} finished tasks",
        figure=figure,
        unit=unit,
        goal="flat within 10 %",
        met=ratio >= 1 / FLAT if more_is_better else ratio <= FLAT,
        yardstick="beside none",
        yardstick_figure=least,
        note="; ".join(f"{size:,}: {value:.3g} {unit}" for size, value in chosen.items()) + ".",
        details={"by_size": {str(size): values for size, values in by_size.items()}, **details},
    )
