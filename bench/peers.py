"""Celery and dramatiq on a Redis of our own, run as `bench/peer.py` says, in a venv of theirs."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.drive import Options
from bench.machine import Broken
from local.settings import ROOT

NAMES = ("celery", "dramatiq")
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
PATIENCE_S = 240.0


@dataclass(frozen=True, slots=True)
class PeerOutcome:
    """As drive.Outcome: from the same time before the first task."""

    tasks: int
    rate: float
    lateness_ms: Sequence[float]
    worker_us: float
    redis_us: float

    def summary(self) -> dict[str, Any]:
        return {"rate": self.rate, "worker_us": self.worker_us, "redis_us": self.redis_us}


def must_be_there() -> None:
    """Raises Broken, saying what to install."""
    if shutil.which("redis-server") is None:
        raise Broken("redis-server is missing (Debian: apt-get install redis-server)")
    if not PYTHON.exists():
        raise Broken("the peers are not installed: run `make bench PEERS=1`")


def run(
    options: Options, name: str, count: int, over_s: float, *, mode: str = "ahead"
) -> PeerOutcome:
    """So many trivial tasks, due at one instant or over some seconds. mode: see bench/peer.py."""
    with machine.turn(options.lock), machine.folder() as folder, _redis(folder) as port:
        what = [name, mode, str(count), str(over_s), str(port), str(folder)]
        ran = subprocess.run(
            [str(PYTHON), str(ROOT / "bench" / "peer.py"), *what],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if ran.returncode:
            raise Broken(f"{name}: {ran.stderr[-2000:]}")
        return PeerOutcome(**json.loads(ran.stdout))


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    port = machine.free_port()
    options = f"--port {port} --bind 127.0.0.1 --dir {folder} --daemonize no"
    keeping = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    process = subprocess.Popen(
        ["redis-server", *options.split(), *keeping],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        machine.wait_for_port(port)
        yield port
    finally:
        process.kill()
        process.wait()
