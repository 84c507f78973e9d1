"""Engines and stores that tests can ask for."""

import asyncio
import socket
import subprocess
import zlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.alternator import tables
from chalicelib.alternator.client import Client, TransportThread
from chalicelib.alternator.queue import AlternatorTaskQueue
from chalicelib.alternator.store import AlternatorTaskStore
from chalicelib.clock import SystemClock, pause
from chalicelib.config import Settings
from chalicelib.memory import MemoryQueue, MemoryStore, Tables
from chalicelib.store import TaskQueue, TaskStore
from local.engine import binary
from tests.fakes import FakeClock, Ids
from tests.profile import CheckedTransport
from tests.wires import BotoWire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """An embedded engine in memory, one for the session."""
    port = free_port()
    command = [binary(), "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(port)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


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
def settings(engine_url: str, request: pytest.FixtureRequest) -> Settings:
    """Settings for tables of this test's own."""
    prefix = f"t{zlib.crc32(request.node.nodeid.encode())}_"
    return Settings(endpoints=(engine_url,), table_prefix=prefix, shards=4)


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
def wire(settings: Settings) -> Iterator[TransportThread]:
    """To the engine; every request is checked."""
    wire = TransportThread(lambda: CheckedTransport.open(settings, SystemClock()))
    yield wire
    wire.close()


@pytest.fixture
def client(wire: TransportThread, settings: Settings) -> Client:
    """The service's client on the engine, with the tables created."""
    client = Client(wire, SystemClock())
    tables.create(client, settings.table_prefix)
    return client


@pytest.fixture
def moto_client(monkeypatch: pytest.MonkeyPatch) -> Iterator["DynamoDBClient"]:
    """A plain boto3 client on tables in this process."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-east-1")
        tables.create(Client(BotoWire(client), SystemClock()))
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
        store = AlternatorTaskStore(Client(moto, clock), clock, shards=4)
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
            queue = MemoryQueue(rows, shards=4)
            yield QueueKit(MemoryStore(rows), clock, Ids(), queue, runner.run)
            return
        settings = request.getfixturevalue("settings")
        client = request.getfixturevalue("client")
        store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)

        async def open_queue() -> AlternatorTaskQueue:
            transport = CheckedTransport.open(settings, clock)
            prefix = settings.table_prefix
            return AlternatorTaskQueue(transport, clock, prefix=prefix, shards=settings.shards)

        real = runner.run(open_queue())
        yield QueueKit(store, clock, Ids(), real, runner.run)
        runner.run(real.close())
