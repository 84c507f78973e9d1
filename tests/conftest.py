"""Engines and stores that tests can ask for."""

import asyncio
import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.clock import SystemClock, pause
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, SchedulerError
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import TaskQueue, TaskStore
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables
from local.engine import binary
from local.processes import StartFailed
from tests.support import engine as engines
from tests.support.engine import Elsewhere, Engine
from tests.support.fakes import FakeClock, Ids
from tests.support.profile import CheckedTransport
from tests.support.wires import BotoWire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


RUN = pytest.StashKey[str]()
"""What the names of all tables begin with that this run makes where ENGINE_URL leads."""
UNDER_WAY_S = 2.0
"""A table whose creation was interrupted is there after this."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test runs, the engine that ENGINE_URL names must answer."""
    if hasattr(config, "workerinput"):
        config.stash[RUN] = config.workerinput["run"]
        return
    config.stash[RUN] = f"test_{uuid.uuid4().hex[:8]}_"
    try:
        if settings := engines.named(os.environ):
            engines.must_answer(settings)
            # As Ctrl-C: what was made there is deleted.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    except InvalidSetting as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist which run it belongs to."""
    node.workerinput["run"] = node.config.stash[RUN]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """When all processes of the run have ended, however it ended, its tables are deleted."""
    try:
        return (yield)
    finally:
        settings = engines.named(os.environ)
        if settings and not hasattr(session.config, "workerinput"):
            _leave_nothing(settings, session)


def _leave_nothing(settings: Settings, session: pytest.Session) -> None:
    prefix = session.config.stash[RUN]
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        pause(UNDER_WAY_S)
    try:
        engines.drop(settings, prefix)
    except SchedulerError as error:
        text = f"tables {prefix}* are left at ENGINE_URL={settings.endpoints[0]}: {error}"
        pytest.exit(text, returncode=pytest.ExitCode.INTERNAL_ERROR)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whoever names another engine need not have the embedded one."""
    if item.get_closest_marker("own_engine") and os.environ.get("ENGINE_URL"):
        try:
            binary()
        except StartFailed as error:
            pytest.skip(f"it starts an engine of its own: {error}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def embedded_engine(file: Path | None = None) -> Iterator[str]:
    """The URL of an embedded engine, which ends with the block. Without a file it is in memory."""
    port = free_port()
    command = [binary(), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--db-path", str(file)] if file else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """The one that ENGINE_URL names, else an embedded one, one for the session."""
    if settings := engines.named(os.environ):
        worker = getattr(pytestconfig, "workerinput", {"workerid": "main"})["workerid"]
        yield Elsewhere(settings, f"{pytestconfig.stash[RUN]}{worker}_")
        return
    with embedded_engine() as url:
        yield Engine(Settings(endpoints=(url,)))


def wait_for_port(port: int) -> None:
    clock = SystemClock()
    until_s = clock.monotonic_s() + 30
    while clock.monotonic_s() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@dataclass
class StoreKit:
    """A store under test, with the clock and the ids that go with it."""

    store: TaskStore
    clock: FakeClock
    ids: Ids


@dataclass
class QueueKit(StoreKit):
    """A queue under test and a store on the same tasks; run: to the end of a coroutine."""

    queue: TaskQueue
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    shards: int = 4


@pytest.fixture
def settings(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings for tables that no other test uses meanwhile; `client` makes them."""
    is_own = request.node.get_closest_marker("own_tables") is not None
    with engine.place(request.node.nodeid, is_own=is_own) as prefix:
        yield replace(engine.settings, table_prefix=prefix, shards=4)


@pytest.fixture
def raw_client(settings: Settings) -> Iterator["DynamoDBClient"]:
    """A client that may send what the service never would."""
    client = boto3.client(
        "dynamodb",
        endpoint_url=settings.endpoints[0],
        region_name=settings.region,
        aws_access_key_id=settings.user,
        aws_secret_access_key=settings.secret,
    )
    yield client
    client.close()


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """What blocking clients run in."""
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def wire(settings: Settings, thread: LoopThread) -> Iterator[CheckedTransport]:
    """To the engine, in the loop of `thread`; every request is checked."""

    async def opened() -> CheckedTransport:
        return CheckedTransport.open(settings, SystemClock())

    wire = thread.run(opened())
    yield wire
    thread.run(wire.close())


@pytest.fixture
def client(
    thread: LoopThread, wire: CheckedTransport, settings: Settings, engine: Engine
) -> Iterator[Client]:
    """The service's client on the engine, with the tables created, and nothing in them."""
    client = Client(thread, Requester(wire, SystemClock()))
    with engine.tables(client, settings.table_prefix):
        yield client


@pytest.fixture
def moto_client(monkeypatch: pytest.MonkeyPatch, thread: LoopThread) -> Iterator["DynamoDBClient"]:
    """A plain boto3 client on tables in this process."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-east-1")
        tables.create(Client(thread, Requester(BotoWire(client), SystemClock())))
        yield client


@pytest.fixture(params=["memory", "moto", "engine"])
def store_kit(request: pytest.FixtureRequest) -> StoreKit:
    """Every store there is: each test that takes this is a test of the contract."""
    clock = FakeClock()
    store: TaskStore
    if request.param == "memory":
        store = MemoryStore(Tables())
    elif request.param == "moto":
        moto = BotoWire(request.getfixturevalue("moto_client"))
        moto_client = Client(request.getfixturevalue("thread"), Requester(moto, clock))
        store = AlternatorTaskStore(moto_client, clock, shards=4)
    else:
        prefix = request.getfixturevalue("settings").table_prefix
        client = request.getfixturevalue("client")
        store = AlternatorTaskStore(client, clock, prefix=prefix, shards=4)
    return StoreKit(store, clock, Ids())


@pytest.fixture(params=["memory", "engine"])
def queue_kit(request: pytest.FixtureRequest) -> Iterator[QueueKit]:
    """Every queue there is, with a store on the same tasks."""
    clock = FakeClock()
    with asyncio.Runner() as runner:
        if request.param == "memory":
            rows = Tables()
            queue = MemoryQueue(rows, shards=4, retention_days=30)
            yield QueueKit(MemoryStore(rows), clock, Ids(), queue, runner.run)
            return
        settings = request.getfixturevalue("settings")
        client = request.getfixturevalue("client")
        store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)

        async def open_queue() -> AlternatorTaskQueue:
            transport = CheckedTransport.open(settings, clock)
            prefix = settings.table_prefix
            return AlternatorTaskQueue(
                transport, clock, prefix=prefix, shards=settings.shards, retention_days=30
            )

        real = runner.run(open_queue())
        yield QueueKit(store, clock, Ids(), real, runner.run)
        runner.run(real.close())
