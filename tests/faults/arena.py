"""Where a scenario plays: an engine on a file, the fault proxy, processes, and the evidence.

Workers, ticks and clients go through the proxy; the harness itself looks at the engine directly.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from bench.machine import children_of
from chalicelib.api.wakeups import WakeUps
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.store.alternator import requests, tables
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task
from local.engine import binary
from local.evidence import DEATH, Event
from local.findings import Findings
from local.settings import ROOT
from local.store_check import PAGE_ROWS
from local.verify import Ledgers, verify
from tests.conftest import free_port, wait_for_port
from tests.faults.plan import Plan
from tests.support.cluster import Cluster

CLIENTS = 16
BUSY_S = 30.0
"""A client of a busy store gives up after this."""
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30


class Engine:
    """The embedded engine on a file: it can be killed and started again.

    folder: where the file lies, in memory if there is room, so that no disk sets the pace.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = folder / "engine.db"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [binary(), "serve", *address, "--db-path", str(self._file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Done:
    """Counts the finished tasks that ledgers tell of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: Counter[Path] = Counter()
        self.count = 0

    def look(self) -> int:
        for path in self._folder.glob("*.ledger"):
            with open(path, "rb") as file:
                file.seek(self._read[path])
                text = file.read()
            self._read[path] += len(text)
            self.count += text.count(b'"state": "completed"') + text.count(b'"state": "failed"')
        return self.count


@dataclass(kw_only=True)
class Arena(Cluster):
    """A cluster behind the fault proxy, with ledgers.

    store: what clients use, through the proxy. direct: settings that lead to the engine itself.
    unknown: creates whose outcome was never learnt. wakeups: tell of tasks that were created.
    """

    engine: Engine
    direct: Settings
    client: Client
    rng: Random
    wakeups: WakeUps | None = None
    unknown: list[str] = field(default_factory=list)
    _acknowledging: threading.Lock = field(default_factory=threading.Lock)

    # Processes

    def env(self) -> dict[str, str]:
        # Bar asks the engine, which answers anybody's GET with 200.
        return super().env() | {"BAR_URL": f"{self.engine.url}/"}

    def worker(
        self, *options: str, module: str = "worker", **env: str
    ) -> "subprocess.Popen[bytes]":
        ledger = self.folder / f"{len(self.processes)}.ledger"
        return self.start("-m", module, "--ledger", str(ledger), *options, **env)

    def tick(self, seconds: float) -> "subprocess.Popen[bytes]":
        """A tick with so much time until its deadline."""
        ledger = self.folder / f"{len(self.processes)}.ledger"
        return self.start("-m", "tests.faults.tick_process", str(seconds), str(ledger))

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL the process; those under it end with it. The ledger is told."""
        family = family_of(process.pid)
        process.kill()
        self.note_deaths(family)
        process.wait()

    def kill_children(self, pids: Sequence[int]) -> None:
        """SIGKILL processes of workers, whose supervisors wait for them. The ledger is told."""
        self.note_deaths(pids)
        send(pids, signal.SIGKILL)

    def note_deaths(self, pids: Sequence[int]) -> None:
        at_s = self.clock.monotonic_s()
        with open(self.folder / "deaths.ledger", "a") as file:
            for pid in pids:
                file.write(json.dumps({"event": DEATH, "pid": pid, "at_s": at_s}) + "\n")

    # Faults

    def set_plan(self, plan: Plan) -> None:
        self._proxy("/_plan", json.dumps(plan.data()).encode())

    def faults(self) -> dict[str, Any]:
        counted: dict[str, Any] = json.loads(self._proxy("/_faults"))
        return counted

    def _proxy(self, path: str, body: bytes | None = None) -> bytes:
        url = self.settings.endpoints[0] + path
        with urllib.request.urlopen(url, data=body, timeout=10) as answer:
            return bytes(answer.read())

    # Tasks

    def create(self, type: str, send_ts_ms: int) -> str | None:
        """As a client would, through the proxy: the id if it was acknowledged. Whoever is told that
        nothing was changed comes again."""
        task = Task.new(
            id=str(uuid.uuid4()),
            type=type,
            send_ts_ms=send_ts_ms,
            now_ms=self.clock.now_ms(),
            token=str(uuid.uuid4()),
        )
        until_s = self.clock.monotonic_s() + BUSY_S
        if self.wakeups is not None:
            self.wakeups.prepare([task.due_at_ms])
        while True:
            try:
                self._created(task)
            except StoreBusy:
                if self.clock.monotonic_s() < until_s:
                    threading.Event().wait(0.5)
                    continue
                return None
            except StoreUnavailable:
                self.unknown.append(task.id)
                return None
            self.acknowledge([task.id])
            return task.id

    def _created(self, task: Task) -> None:
        self.store.create(task)
        if self.wakeups is not None:
            self.wakeups.tell([task])

    def acknowledge(self, ids: Sequence[str]) -> None:
        with self._acknowledging, open(self.folder / "acknowledged", "a") as file:
            file.writelines(f"{id}\n" for id in ids)

    def add(self, type: str, count: int = 1, delay_s: float = 0.0) -> list[str]:
        return self.add_mixed([type] * count, delay_s, 0.0)

    def add_mixed(self, types: Sequence[str], delay_s: float, over_s: float) -> list[str]:
        """Tasks of these types, due from `delay_s` on, evenly over `over_s`."""
        first_ms = self.clock.now_ms() + round(delay_s * 1000)
        step_ms = over_s * 1000 / len(types)

        def create(number: int) -> str | None:
            return self.create(types[number], first_ms + round(number * step_ms))

        with ThreadPoolExecutor(CLIENTS) as pool:
            return [id for id in pool.map(create, range(len(types))) if id is not None]

    @contextmanager
    def load(self, types: Sequence[str], delay_s: float, over_s: float) -> Iterator[None]:
        """Tasks are added while the block runs; at its end all have been."""
        adding = threading.Thread(target=self.add_mixed, args=(types, delay_s, over_s))
        adding.start()
        try:
            yield
        finally:
            adding.join()

    async def put_directly(self, type: str, count: int, send_ts_ms: int) -> None:
        """Many tasks fast, straight into the engine, as if they had been created long ago."""
        queue = AlternatorTaskQueue.open(self.direct, self.clock)
        now_ms = self.clock.now_ms()
        made = [
            Task.new(id=str(uuid.uuid4()), type=type, send_ts_ms=send_ts_ms, now_ms=now_ms, token=t)
            for t in map(str, range(count))
        ]
        try:
            for start in range(0, count, 200):
                await self._put(queue, made[start : start + 200])
        finally:
            await queue.close()
        self.acknowledge([task.id for task in made])

    async def _put(self, queue: AlternatorTaskQueue, made: Sequence[Task]) -> None:
        """Rows before records, as a create does it, but no record by itself."""
        made = await queue._rows.put(made, queue._requester.deadline_s())
        table = f"{self.direct.table_prefix}tasks"
        for start in range(0, len(made), 25):
            records = [requests.encode_task(task) for task in made[start : start + 25]]
            await queue._requester.decide(requests.write_rows({table: records}, {}))

    # Evidence

    def unfinished(self) -> int:
        """How many tasks have a time at which they are due."""
        scan = requests.scan(f"{self.direct.table_prefix}tasks", 0, 1, None).body | {
            "FilterExpression": "attribute_exists(due_at_ms)",
            "Limit": PAGE_ROWS,
        }
        return sum(1 for _ in self.client.items(requests.Request("Scan", scan)))

    def wait_done(self, seconds: float, *, every_s: float = 0.5) -> None:
        """Until no task is unfinished."""
        self.wait_for(lambda: self.unfinished() == 0, seconds, every_s=every_s)

    def wait_calm(self, seconds: float, *, every_s: float = 0.5) -> None:
        """Until all is done under faults, then all that the proxy kept back has been applied."""
        self.wait_done(seconds, every_s=every_s)
        self.set_plan(Plan())
        self.wait_for(lambda: self.faults()["pending"] == 0, 30)
        self.wait_done(30, every_s=every_s)

    def events(self, event: str) -> list[Event]:
        """What ledgers say until now."""
        ledgers = Ledgers()
        for path in self.folder.glob("*.ledger"):
            ledgers.read(path)
        return [one for one in ledgers.events if one.event == event]

    def check(self, *, grace_s: float = 0.0, recovered_within_s: float | None = None) -> Findings:
        """Judge, and say what was found and which faults there were.

        Raises AssertionError if a process sent what ScyllaDB would refuse or understand otherwise.
        """
        ledgers = sorted(self.folder.glob("*.ledger"))
        printed = [path.with_suffix(".out") for path in ledgers]
        findings = verify(
            ledgers,
            self.direct,
            self.clock,
            acknowledged=self.folder / "acknowledged",
            lines=[path for path in printed if path.exists()],
            grace_s=grace_s,
            recovered_within_s=recovered_within_s,
        )
        counted = self.faults()
        say(f"faults: {counted['faults']} in {counted['requests']} requests {counted['by_fault']}")
        assert not counted["outside_profile"], counted["outside_profile"]
        for breach in findings.breaches[:20]:
            say(str(breach))
        say(findings.line())
        return findings

    def stored(self) -> list[Task]:
        """All records, as they are in the engine."""
        scan = requests.scan(f"{self.direct.table_prefix}tasks", 0, 1, None).body
        paged = requests.Request("Scan", scan | {"Limit": PAGE_ROWS})
        return [*map(requests.decode_task, self.client.items(paged))]


def say(line: str) -> None:
    print(line, file=sys.stdout, flush=True)  # noqa: T201 - the report of a scenario


def family_of(pid: int) -> list[int]:
    """The process and all under it."""
    return [pid, *(one for child in children_of(pid) for one in family_of(child))]


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """To those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def opened(folder: Path, *, seed: int = 0) -> Iterator[Arena]:
    """An arena with its tables made; at the end every process of it is ended."""
    is_roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if is_roomy else folder) as data:
        engine = Engine(Path(data))
        try:
            engine.start()
            with _opened(folder, engine, seed) as arena:
                yield arena
        finally:
            engine.kill()


@contextmanager
def _opened(folder: Path, engine: Engine, seed: int) -> Iterator[Arena]:
    direct = Settings(endpoints=(engine.url,))
    clock = SystemClock()
    client = Client.connect(direct, clock)
    tables.create(client)
    port = free_port()
    settings = replace(direct, endpoints=(f"http://127.0.0.1:{port}",))
    # Its client asks the proxy at once for the nodes, so the proxy comes first.
    proxy = _start_proxy(port, engine.url, seed, folder)
    clients = Client.connect(settings, clock, rng=Random(seed))
    store = AlternatorTaskStore(clients, clock)
    arena = Arena(
        settings=settings,
        store=store,
        folder=folder,
        engine=engine,
        direct=direct,
        client=client,
        rng=Random(seed),
    )
    try:
        yield arena
    finally:
        for process in arena.processes:
            _end(process)
        clients.close()
        _end(proxy)
        client.close()


def _start_proxy(port: int, target: str, seed: int, folder: Path) -> "subprocess.Popen[bytes]":
    options = [f"--port={port}", f"--target={target}", f"--seed={seed}"]
    with open(folder / "proxy.err", "wb") as err:
        proxy = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.proxy", *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        wait_for_port(port)
    except TimeoutError:
        _end(proxy)
        raise
    return proxy


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill; a stopped process dies as well, and what is under a worker dies with it."""
    process.kill()
    process.wait()
