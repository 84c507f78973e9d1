"""What a fleet costs that has nothing to do, and what a worker holds in memory."""

import time
from typing import NamedTuple

from bench import machine, proxy, seed
from bench.drive import CLOCK, Options
from bench.machine import Broken
from bench.report import Row

LIMITS = {1: 12.0, 4: 20.0, 16: 32.4}
"""How many requests a second fleets of so many processes may send when they are idle."""
SETTLED_S = 30.0
"""By then every processor knows that all are idle: 15 s until it is, 5 until it says so, 5 until
it is seen."""
IDLE_S = 60.0
"""A whole minute, with its sweep."""
LOOKAHEAD_S = 60.0
FULL_S = 8.0
MEMORY_MIB = 150.0


class Idle(NamedTuple):
    """A second of an idle fleet: requests by operation, milliseconds of CPU."""

    requests: dict[str, float]
    cpu_ms: float


def idle(options: Options) -> list[Row]:
    """Requests a second of idle fleets, counted at the store's edge."""
    found = {size: _idle_fleet(options, size) for size in LIMITS}
    totals = {size: sum(one.requests.values()) for size, one in found.items()}
    shown = "; ".join(
        f"{size}: {totals[size]:.1f}/s, {found[size].cpu_ms:.0f} ms CPU/s" for size in LIMITS
    )
    return [
        Row(
            name=f"idle fleet of {size}",
            what=f"store requests a second of idle processes, so many: {size}, default SHARDS",
            figure=totals[size],
            unit="/s",
            goal=f"<= {limit:g}",
            met=totals[size] <= limit,
            note=f"By fleet: {shown}.",
            details={"requests_a_second": found[size].requests, "cpu_ms": found[size].cpu_ms},
        )
        for size, limit in LIMITS.items()
    ]


def _idle_fleet(options: Options, size: int) -> Idle:
    with (
        machine.turn(options.lock),
        machine.engine() as engine,
        proxy.counting(engine.port) as edge,
        machine.workers(engine, size, port=edge.port) as workers,
    ):
        time.sleep(SETTLED_S)
        before, cpu_s, started_s = edge.now(), workers.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        seconds = time.monotonic() - started_s
        counts = edge.now() - before
        requests = {action: count / seconds for action, count in counts.items()}
        return Idle(requests, (workers.cpu_s() - cpu_s) / seconds * 1000)


def memory(options: Options) -> list[Row]:
    """Of one worker (supervisor and process) that has read all the tasks of a burst ahead."""
    with machine.turn(options.lock), machine.engine() as engine:
        empty = _memory(engine, 0)
        full = _memory(engine, options.tasks)
    return [
        Row(
            name="worker memory",
            what=f"PSS of a worker, all its processes, with {options.tasks} tasks in its heap",
            figure=full["pss"],
            unit="MiB",
            goal=f"< {MEMORY_MIB:.0f}",
            met=full["pss"] < MEMORY_MIB,
            yardstick="none in its heap",
            yardstick_figure=empty["pss"],
            note=f"RSS, where shared pages count for each process: {full['rss']:.0f} MiB.",
            details={"full": full, "empty": empty},
        )
    ]


def _memory(engine: machine.Engine, count: int) -> dict[str, float]:
    """The tasks lie within a long lookahead, and are due after the worker has ended."""
    now_ms = CLOCK.now_ms()
    maker = seed.Maker(now_ms)
    due_ms = now_ms + round((LOOKAHEAD_S - 1) * 1000)
    with proxy.counting(engine.port) as edge:
        lookahead = str(LOOKAHEAD_S)
        with machine.workers(engine, 1, port=edge.port, env={"LOOKAHEAD_S": lookahead}) as workers:
            seed.put(engine.port, engine.settings, (maker.task(due_ms) for _ in range(count)))
            time.sleep(FULL_S)
            pids = workers.pids()
            if CLOCK.now_ms() >= due_ms:
                raise Broken("seeding is too slow on this machine")
            return {
                "pss": sum(machine.memory_mib(pid, "Pss") for pid in pids),
                "rss": sum(machine.memory_mib(pid, "Rss") for pid in pids),
                "processes": float(len(pids)),
            }
