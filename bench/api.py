"""What the API costs: a create beside the bare client, and the first request of a new process."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench import machine, proxy
from bench.drive import Options
from bench.machine import Broken
from bench.report import Row, middle
from local.settings import ROOT

CREATES = 1_000
SHOWN = 10
COLD_MS = 350.0
PATIENCE_S = 120.0


def create(options: Options) -> list[Row]:
    """What a create sends, and what CPU it costs."""
    count = min(CREATES, options.tasks)
    with machine.turn(options.lock), machine.engine() as engine:
        counts = _counted(engine, count)
        cpu = _process(["create", str(count)], engine.port)
    return [_requests(counts, count), _cpu(cpu)]


def _counted(engine: machine.Engine, count: int) -> Counter[str]:
    """Requests to the store of so many creates, by operation, after the first of the process."""
    command = [sys.executable, "-m", "bench.api_process", "count", str(count)]
    with (
        proxy.counting(engine.port) as edge,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=_env(edge.port),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        assert process.stdin and process.stdout
        process.stdout.readline()
        before = edge.now()
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        counts = edge.now() - before
        process.stdin.close()
    return counts


def _requests(counts: Mapping[str, int], count: int) -> Row:
    # Its client looks for nodes from time to time: no request of a create.
    writes = {action: n for action, n in counts.items() if action != "-"}
    requests = sum(writes.values()) / count
    return Row(
        name="requests, create",
        what=f"store requests of a POST /task, {count} of them for the next 5 minutes",
        figure=requests,
        unit="a task",
        goal="<= 2.05",
        met=requests <= 2.05,
        note="One batch of rows, one conditional put, and once a bucket and shard its"
        " directory rows. After the first request of the process.",
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
        _process(["cold"], engine.port)
        runs = [_process(["cold"], engine.port) for _ in range(2 * options.rounds + 1)]
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


def _process(arguments: list[str], port: int, *options: str) -> Any:
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
