"""What a measurement runs on: an engine, workers, and what the kernel says of them."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator import requests, tables
from chalicelib.store.alternator.heartbeats import FLEET
from chalicelib.store.alternator.wire.client import Client
from local.engine import binary
from local.settings import ROOT

IN_MEMORY = Path("/dev/shm")
NO_ENV: Mapping[str, str] = MappingProxyType({})
START_S = 30.0
LOOK_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """A measurement could not be made."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(LOOK_S)
    raise Broken(f"nothing listens on port {port}")


@contextmanager
def turn(lock: Path | None) -> Iterator[None]:
    """Hold the lock, so that measurements of several runs on one machine take turns."""
    if lock is None:
        yield
        return
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of a measurement's own, in memory where there is one: no disk sets the pace."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as path:
        yield Path(path)


@dataclass
class Engine:
    """An embedded engine with its tables made. client: the service's own, on it."""

    port: int
    process: "subprocess.Popen[bytes]"
    settings: Settings
    client: Client

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)


@contextmanager
def engine(file: Path | None = None) -> Iterator[Engine]:
    """A fresh one, in memory unless a file is given."""
    port = free_port()
    command = [binary(), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with _program(command + (["--db-path", str(file)] if file else [])) as process:
        wait_for_port(port)
        settings = replace(Settings.from_env(), endpoints=(f"http://127.0.0.1:{port}",))
        client = Client.connect(settings, SystemClock())
        try:
            tables.create(client, settings.table_prefix)
            yield Engine(port, process, settings, client)
        finally:
            client.close()


@contextmanager
def _program(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Workers:
    """One `python -m worker` with its processes, in a session of their own.

    out, err: what it prints. ledger: what it did, if it was asked to note that.
    """

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path
    ledger: Path
    counts: Counter[str] = field(default_factory=Counter)
    _read: int = 0
    _lines: int = 0

    def lines(self) -> int:
        """How many tasks have printed their line: all that can be seen without asking the store."""
        with open(self.out, "rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        self._lines += text.count(b"\n")
        return self._lines

    def wait_lines(self, count: int, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while self.lines() < count:
            if time.monotonic() > until_s or self.process.poll() is not None:
                raise Broken(f"{self._lines} of {count} tasks ran: {self.err.read_text()[-2000:]}")
            time.sleep(LOOK_S)

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.pids()))

    def pids(self) -> list[int]:
        return session(self.process.pid)

    def end(self) -> None:
        """Drain; then `counts` holds what its processors counted."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)
        for line in self.err.read_text().splitlines():
            if '"action": "drained"' in line:
                self.counts.update(json.loads(line)["counts"])


@contextmanager
def workers(
    engine: Engine,
    processes: int,
    *,
    port: int | None = None,
    ledger: bool = False,
    env: Mapping[str, str] = NO_ENV,
) -> Iterator[Workers]:
    """A worker whose processes all send heartbeats. port: where it finds the store, else the
    engine's. ledger: whether it keeps one."""
    url = f"http://127.0.0.1:{port or engine.port}"
    with folder() as place:
        options = ["--processes", str(processes)]
        options += ["--ledger", str(place / "ledger")] if ledger else []
        started = _started(place, options, {"ALTERNATOR_ENDPOINTS": url, **env})
        try:
            _wait_for_heartbeats(engine, started, processes)
            yield started
        finally:
            end_session(started.process)


def _started(place: Path, options: list[str], env: dict[str, str]) -> Workers:
    out, err = place / "out", place / "err"
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *options],
            cwd=ROOT,
            env=os.environ | env,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    return Workers(process, out, err, place / "ledger")


def _wait_for_heartbeats(engine: Engine, started: Workers, processes: int) -> None:
    heartbeats = requests.query(f"{engine.settings.table_prefix}workers", "fleet", FLEET)
    until_s = time.monotonic() + START_S
    while len([*engine.client.items(heartbeats)]) < processes:
        if time.monotonic() > until_s:
            raise Broken(f"the worker did not start: {started.err.read_text()[-2000:]}")
        time.sleep(LOOK_S)


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a session that we started."""
    for pid in session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


# What the kernel says


def session(leader: int) -> list[int]:
    """All processes of the session."""
    return _with_field(3, leader)


def children_of(pid: int) -> list[int]:
    """The processes that it has started and not waited for; none if it is gone."""
    return _with_field(1, pid)


def _with_field(number: int, value: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(path)
        if len(fields) > number and int(fields[number]) == value:
            found.append(int(path.parent.name))
    return sorted(found)


def cpu_s(pid: int) -> float:
    """User and system time of the process, and of the children that it has waited for."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    if not fields:
        return 0.0
    try:
        # Its CPU clock, as clock_getcpuclockid(3) names it: finer than the ticks in /proc.
        own_s = time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0
    return own_s + sum(map(int, fields[13:15])) / TICKS


def _stat(path: Path) -> list[str]:
    """The fields behind the name; none if the process is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def memory_mib(pid: int, name: str) -> float:
    """`Rss` or `Pss` (shared pages divided among those who share them) of the process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def peak_mib(pid: int) -> float:
    """The most memory that the process ever had resident."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def about() -> dict[str, object]:
    """The conditions of a run."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else "",
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "python": sys.version.split()[0],
        "engine": Path(binary()).name,
        "room_in_memory_mib": shutil.disk_usage(IN_MEMORY).free >> 20 if IN_MEMORY.is_dir() else 0,
    }
