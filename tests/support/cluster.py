"""Real processes on a store of their own."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from bench.machine import children_of
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.task import FINISHED, Task
from local.settings import ROOT


@dataclass
class Cluster:
    """Workers and tasks on tables of their own; every process started here is ended here."""

    settings: Settings
    store: AlternatorTaskStore
    folder: Path
    clock: SystemClock = field(default_factory=SystemClock)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *command: str, **env: str) -> "subprocess.Popen[bytes]":
        """Run `python *command`; each process prints to a file of its own."""
        name = f"{len(self.processes)}"
        with (
            open(self.folder / f"{name}.out", "wb") as out,
            open(self.folder / f"{name}.err", "wb") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.env() | env,
                stdout=out,
                stderr=err,
            )
        self.processes.append(process)
        return process

    def worker(self, *options: str) -> "subprocess.Popen[bytes]":
        return self.start("-m", "worker", *options)

    def env(self) -> dict[str, str]:
        return service_env(self.settings)

    def end(self) -> None:
        """Kill what was started here; nothing that was under it writes any more either."""
        family = [pid for process in self.processes for pid in children_of(process.pid)]
        for process in self.processes:
            process.kill()
            process.wait()
        self.wait_for(lambda: not any(map(is_there, family)), 5)

    def lines(self) -> list[str]:
        texts = [path.read_text() for path in sorted(self.folder.glob("*.out"))]
        return "".join(texts).splitlines()

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.err")))

    def add(self, type: str, count: int = 1, delay_s: float = 0.0) -> list[str]:
        send_ts_ms = self.clock.now_ms() + round(delay_s * 1000)

        def create(_: int) -> str:
            task = Task.new(
                id=str(uuid.uuid4()),
                type=type,
                send_ts_ms=send_ts_ms,
                now_ms=self.clock.now_ms(),
                token=str(uuid.uuid4()),
            )
            return self.store.create(task).id

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(create, range(count)))

    def tasks(self, ids: Sequence[str]) -> list[Task]:
        return [self.store.get(id) for id in ids]

    def wait_for(self, what: Callable[[], object], seconds: float, *, every_s: float = 0.1) -> None:
        until_s = self.clock.monotonic_s() + seconds
        while not what():
            assert self.clock.monotonic_s() < until_s, self.log()[-5_000:]
            Event().wait(every_s)

    def wait_finished(self, ids: Sequence[str], seconds: float) -> list[Task]:
        left = list(ids)

        def is_over() -> bool:
            while left and self.store.get(left[-1]).state in FINISHED:
                left.pop()
            return not left

        self.wait_for(is_over, seconds)
        return self.tasks(ids)

    def wait_ready(self, processors: int) -> None:
        """Until so many processors send heartbeats."""
        self.wait_for(lambda: len(self.store.heartbeats()) >= processors, 20)


def service_env(settings: Settings) -> dict[str, str]:
    """The environment of a process of the service with these settings."""
    return os.environ | {
        "ALTERNATOR_ENDPOINTS": ",".join(settings.endpoints),
        "ALTERNATOR_USER": settings.user,
        "ALTERNATOR_SECRET": settings.secret,
        "ALTERNATOR_SECRET_FILE": "",
        "ALTERNATOR_CA_FILE": settings.ca_file or "",
        "TABLE_PREFIX": settings.table_prefix,
        "SHARDS": str(settings.shards),
    }


def is_there(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
