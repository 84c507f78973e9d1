"""What the API costs: a create beside the bare client, and the first request of a new process."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench import machine, proxy
from bench.drive import Options
from bench.machine import Broken
from bench.report import Row, middle
from local.settings import ROOT

CREATES = 1_000
SPREAD_MS = 300_000
SHOWN = 10
COLD_MS = 350.0
PATIENCE_S = 120.0


def create(options: Options) -> list[Row]:
    """What a create sends, and what CPU it costs."""
    count = min(CREATES, options.tasks)
    with machine.turn(options.lock), machine.engine() as engine:
        later = _counted(engine, count, SPREAD_MS)
        now = _counted(engine, count, 0)
        cpu = in_process(["create", str(count)], engine.port)
    return [
        _requests("create", f"{count} of them for the next 5 minutes", later, count, 2.05),
        _requests("create now", f"{count} of them for now", now, count, 2.1),
        _cpu(cpu),
    ]


class Started:
    """A process of bench.api_process that does its work when it is told to go."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self._in, self._out = process.stdin, process.stdout
        self._out.readline()

    def go(self) -> None:
        self._in.write("go\n")
        self._in.flush()

    def wait(self) -> None:
        self._out.readline()


@contextmanager
def started(arguments: list[str], port: int, **env: str) -> Iterator[Started]:
    """It is ready, and ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.api_process", *arguments],
        cwd=ROOT,
        env={**_env(port), **env},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield Started(process)
        finally:
            process.kill()


def _counted(engine: machine.Engine, count: int, spread_ms: int) -> Counter[str]:
    """Requests to the store of so many creates, by operation, after the first of the process."""
    with (
        proxy.counting(engine.port) as edge,
        machine.workers(engine, 1),
        started(["count", str(count), str(spread_ms)], edge.port) as creating,
    ):
        before = edge.now()
        creating.go()
        creating.wait()
        return edge.now() - before


def _requests(name: str, which: str, counts: Mapping[str, int], count: int, goal: float) -> Row:
    # Its client looks for nodes from time to time: no request of a create.
    writes = {action: n for action, n in counts.items() if action != "-"}
    requests = sum(writes.values()) / count
    return Row(
        name=f"requests, {name}",
        what=f"store requests of a POST /task, {which}",
        figure=requests,
        unit="a task",
        goal=f"<= {goal}",
        met=requests <= goal,
        note="One batch of rows, one conditional put, and once a bucket and shard its"
        " directory rows. For now: a look at the fleet every 2 s. After the first request of the"
        " process.",
        details={"requests": writes},
    )


def _cpu(cpu: Mapping[str, Any]) -> Row:
    above_ms = middle([ours - bare for ours, bare in cpu["cpu_ms"]])
    return Row(
        name="API CPU, create",
        what="CPU of a POST /task above the same two requests sent by the bare client",
        figure=above_ms,
        unit="ms",
        goal="<= 0.5",
        met=above_ms <= 0.5,
        note=f"The whole request: {middle([o for o, _ in cpu['cpu_ms']]):.2f} ms,"
        f" bare client: {middle([b for _, b in cpu['cpu_ms']]):.2f} ms. `app(event)` is called"
        " as Lambda does; blocks of both in turn.",
        details=cpu,
    )


def cold(options: Options) -> list[Row]:
    with machine.turn(options.lock), machine.engine() as engine:
        in_process(["cold"], engine.port)
        runs = [in_process(["cold"], engine.port) for _ in range(2 * options.rounds + 1)]
        profile = _import_times(engine.port)
    wall_ms = middle([run["import_ms"] + run["request_ms"] for run in runs])
    top = ", ".join(f"{name} {ms:.0f}" for name, ms in list(profile.items())[:SHOWN])
    return [
        Row(
            name="cold start",
            what="import app, then the first POST /task, in a fresh process on a warm engine",
            figure=wall_ms,
            unit="ms",
            goal=f"< {COLD_MS:.0f}",
            met=wall_ms < COLD_MS,
            note=f"Import {middle([r['import_ms'] for r in runs]):.0f} ms, request"
            f" {middle([r['request_ms'] for r in runs]):.0f} ms; CPU of both"
            f" {middle([r['cpu_ms'] for r in runs]):.0f} ms; the start of Python is not in it."
            f" Slowest imports, with what they import (ms): {top}.",
            details={"runs": runs, "imports_ms": profile},
        )
    ]


def in_process(arguments: list[str], port: int, *options: str) -> Any:
    """What a part of `bench.api_process` found. Raises Broken."""
    ran = _ran(arguments, port, *options)
    return json.loads(ran.stdout)


def _ran(arguments: list[str], port: int, *options: str) -> "subprocess.CompletedProcess[str]":
    ran = subprocess.run(
        [sys.executable, *options, "-m", "bench.api_process", *arguments],
        cwd=ROOT,
        env=_env(port),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if ran.returncode:
        raise Broken(ran.stderr[-2000:])
    return ran


def _env(port: int) -> Mapping[str, str]:
    return os.environ | {"ALTERNATOR_ENDPOINTS": f"http://127.0.0.1:{port}"}


def _import_times(port: int) -> dict[str, float]:
    """Milliseconds that packages took to import, with all that they import, slowest first."""
    lines = _ran(["cold"], port, "-X", "importtime").stderr.splitlines()
    found: dict[str, float] = {}
    for line in lines:
        match = re.fullmatch(r"import time:\s+\d+ \|\s+(\d+) \|\s*(\S+)", line)
        if match:
            found[match[2]] = int(match[1]) / 1000
    slowest = sorted(found.items(), key=lambda pair: -pair[1])
    return dict(slowest[: 4 * SHOWN])
