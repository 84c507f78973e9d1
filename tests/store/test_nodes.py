"""Several nodes, authorization and TLS, as both clients meet them."""

import asyncio
import json
import logging
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from chalice.test import Client as Caller

import app as entry
from chalicelib.api.endpoints import Api
from chalicelib.clock import SystemClock, pause
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, StoreUnavailable
from chalicelib.processing import tick
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.nodes import TIME_LOOKS
from chalicelib.store.alternator.wire.outstanding import DONE_AFTER_S
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import Transport
from chalicelib.task import Task
from local.settings import ROOT
from tests.support.api_service import expect_error
from tests.support.cluster import service_env
from tests.support.engine import Engine
from tests.support.fakes import Ids, hint_of, new_task
from tests.support.front import HOSTS, Front, front, signature_check
from tests.support.hostile_requests import JSON

REFRESH_S = 0.2
CLOCK = SystemClock()
IDS = Ids()

pytestmark = pytest.mark.wall_clock


@pytest.fixture
def nodes(engine: Engine) -> Iterator[Front]:
    with front(engine.settings, *HOSTS) as nodes:
        yield nodes


@pytest.fixture
def behind(client: Client, settings: Settings, nodes: Front) -> Settings:
    """Settings for a client that knows one node only, with the tables created."""
    return replace(settings, endpoints=(nodes.url(),))


@pytest.fixture
def store(client: Client, settings: Settings) -> AlternatorTaskStore:
    """Straight to the engine."""
    return AlternatorTaskStore(client, CLOCK, prefix=settings.table_prefix, shards=4)


def create(store: AlternatorTaskStore, count: int) -> list[Task]:
    now_ms = CLOCK.now_ms()
    tasks = [new_task(IDS, send_ts_ms=now_ms, now_ms=now_ms) for _ in range(count)]
    return [store.create(task) for task in tasks]


def connected(settings: Settings) -> Client:
    """A client that looks at the nodes every 0.2 s."""

    async def opened() -> Transport:
        return Transport.open(settings, CLOCK, REFRESH_S)

    thread = LoopThread()
    try:
        return Client(thread, Requester(thread.run(opened()), CLOCK))
    except BaseException:
        thread.close()
        raise


def with_queue(settings: Settings, use: Callable[[AlternatorTaskQueue], Awaitable[Any]]) -> Any:
    """What `use` returns, with a queue that looks at the nodes every 0.2 s."""

    async def main() -> Any:
        transport = Transport.open(settings, CLOCK, REFRESH_S)
        queue = AlternatorTaskQueue(transport, CLOCK, prefix=settings.table_prefix, shards=4)
        try:
            await asyncio.sleep(REFRESH_S)
            return await use(queue)
        finally:
            await queue.close()

    return asyncio.run(main())


async def work(queue: AlternatorTaskQueue, tasks: list[Task]) -> None:
    """Claim each and give it back, all side by side."""

    async def one(task: Task) -> None:
        now_ms, until_s = CLOCK.now_ms(), CLOCK.monotonic_s() + 4.0
        assert task.due_at_ms is not None
        hint = hint_of(task)
        held = await queue.claim(hint, claim=IDS(), processor="p", now_ms=now_ms, until_s=until_s)
        assert isinstance(held, Task)
        settled = held.completed("done", now_ms=now_ms)
        assert await queue.settle(held, settled, until_s=until_s)

    await asyncio.gather(*(one(task) for task in tasks))


async def read(queue: AlternatorTaskQueue, count: int) -> None:
    for _ in range(count):
        await queue.heartbeats()


def assert_kept_apart(hosts_by_id: Mapping[str, set[str]]) -> None:
    """The writes of a task went to one node: nearly always, for one that stalls for a tenth of a
    second, as it can on a busy machine, is passed by."""
    counts = [len(hosts) for hosts in hosts_by_id.values()]
    assert counts.count(1) >= 0.8 * len(counts)


# The processors' client


def test_writes_of_a_task_go_to_one_node_and_those_of_all_to_all(
    behind: Settings, nodes: Front, store: AlternatorTaskStore
) -> None:
    tasks = create(store, 60)
    with_queue(behind, lambda queue: work(queue, tasks[:30]))
    with_queue(behind, lambda queue: work(queue, tasks[30:]))
    hosts = nodes.hosts_by_id()
    assert len(hosts) == 60
    assert_kept_apart(hosts)
    assert set.union(*hosts.values()) == set(HOSTS)


def test_reads_go_around(behind: Settings, nodes: Front) -> None:
    with_queue(behind, lambda queue: read(queue, 30))
    assert nodes.counts() == dict.fromkeys(HOSTS, 10)


@pytest.mark.parametrize("how", ["closed", "frozen"])
def test_another_node_takes_over_and_gives_back(
    behind: Settings, nodes: Front, store: AlternatorTaskStore, how: str
) -> None:
    lost = HOSTS[1]
    tasks = create(store, 60)

    async def use(queue: AlternatorTaskQueue) -> None:
        await work(queue, tasks[:20])
        if how == "closed":
            await asyncio.to_thread(nodes.stop, lost)
        else:
            nodes.frozen.add(lost)
        await work(queue, tasks[20:40])
        nodes.seen.clear()
        started_s = CLOCK.monotonic_s()
        await read(queue, 30)
        assert CLOCK.monotonic_s() - started_s < 1.0, "it is passed over meanwhile"
        assert nodes.counts().keys() == set(HOSTS) - {lost}
        if how == "closed":
            await asyncio.to_thread(nodes.start, lost)
        else:
            nodes.frozen.clear()
        # What it never answered counts for as long as it may still work on it.
        await asyncio.sleep(DONE_AFTER_S if how == "frozen" else 1.0 + 2 * REFRESH_S)
        # Polls go around: they tell how quickly it answers again.
        await read(queue, 30)
        nodes.seen.clear()
        # One by one: a node that answered late has few places, and others are asked instead.
        for task in tasks[40:]:
            await work(queue, [task])
        assert lost in set.union(*nodes.hosts_by_id().values())
        assert_kept_apart(nodes.hosts_by_id())

    with_queue(behind, use)


def test_seed_that_is_closed_is_replaced_by_what_was_learnt(behind: Settings, nodes: Front) -> None:
    async def use(queue: AlternatorTaskQueue) -> None:
        await read(queue, 3)
        await asyncio.to_thread(nodes.stop, HOSTS[0])
        await read(queue, 30)

    with_queue(behind, use)
    assert nodes.counts()[HOSTS[1]] > 10


@pytest.mark.parametrize(
    "listing",
    [
        (404, b"<UnknownOperationException/>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b"null"),
        (200, b"7"),
        (200, b'"127.0.0.9"'),
        (200, b'["/etc", 7]'),
        (200, b"["),
        (200, b""),
        (503, b"\xff"),
        (200, b'["127.0.0.9"]'),
    ],
)
def test_without_a_list_the_seeds_are_used(
    behind: Settings, nodes: Front, listing: tuple[int, bytes]
) -> None:
    nodes.listing = listing
    seeds = replace(behind, endpoints=(nodes.url(HOSTS[0]), nodes.url(HOSTS[1])))
    with_queue(seeds, lambda queue: read(queue, 20))
    assert nodes.counts() == dict.fromkeys(HOSTS[:2], 10)


def test_list_may_change(behind: Settings, nodes: Front) -> None:
    async def use(queue: AlternatorTaskQueue) -> None:
        await read(queue, 9)
        nodes.listing = (200, json.dumps(HOSTS[1:]).encode())
        await asyncio.sleep(3 * REFRESH_S)
        nodes.seen.clear()
        await read(queue, 20)
        assert nodes.counts() == dict.fromkeys(HOSTS[1:], 10)
        nodes.listing = (200, b"[]")
        await asyncio.sleep(3 * REFRESH_S)
        await read(queue, 20)
        assert nodes.counts() == dict.fromkeys(HOSTS[1:], 20), "the last list stands"

    with_queue(behind, use)


def test_looks_are_few_and_end(behind: Settings, nodes: Front) -> None:
    started_s = CLOCK.monotonic_s()
    with_queue(behind, lambda queue: asyncio.sleep(5 * REFRESH_S))
    looks = nodes.looks.total()
    passed_s = CLOCK.monotonic_s() - started_s
    first = len(HOSTS)
    of_time = TIME_LOOKS * len(HOSTS)
    assert 3 + first <= looks <= 1 + first + passed_s / REFRESH_S + of_time
    pause(3 * REFRESH_S)
    assert nodes.looks.total() == looks


# The views' client


def test_views_write_a_task_to_one_node_and_survive_the_loss_of_one(
    behind: Settings, nodes: Front
) -> None:
    client = connected(behind)
    store = AlternatorTaskStore(client, CLOCK, prefix=behind.table_prefix, shards=4)
    for task in create(store, 12):
        store.delete(task.id, now_ms=CLOCK.now_ms(), token=IDS())
    hosts = nodes.hosts_by_id()
    assert len(hosts) == 12
    assert {len(of_one) for of_one in hosts.values()} == {1}
    assert set.union(*hosts.values()) == set(HOSTS)
    nodes.stop(HOSTS[1])
    nodes.seen.clear()
    tasks = create(store, 12)
    assert [store.get(task.id) for task in tasks] == tasks
    assert set.union(*nodes.hosts_by_id().values()) == {HOSTS[0], HOSTS[2]}
    nodes.start(HOSTS[1])
    pause(1.0 + 2 * REFRESH_S)
    nodes.seen.clear()
    create(store, 12)
    client.close()
    assert set.union(*nodes.hosts_by_id().values()) == set(HOSTS)


def test_both_clients_write_a_task_to_the_same_node(behind: Settings, nodes: Front) -> None:
    client = connected(behind)
    store = AlternatorTaskStore(client, CLOCK, prefix=behind.table_prefix, shards=4)
    tasks = create(store, 30)
    with_queue(behind, lambda queue: work(queue, tasks))
    for task in tasks:
        store.delete(task.id, now_ms=CLOCK.now_ms(), token=IDS())
    client.close()
    hosts = nodes.hosts_by_id()
    assert len(hosts) == 30
    assert_kept_apart(hosts)
    assert set.union(*hosts.values()) == set(HOSTS)


# Authorization


WRONG: dict[str, dict[str, Any]] = {"user": {"user": "nobody"}, "secret": {"secret": "wrong"}}


@pytest.fixture
def guarded(behind: Settings, nodes: Front) -> Settings:
    nodes.check = signature_check("us/er+1", "s=cr&t/é")
    return replace(behind, user="us/er+1", secret="s=cr&t/é")


def test_both_clients_sign_as_the_store_checks(guarded: Settings, nodes: Front) -> None:
    client = connected(guarded)
    tables.verify(client, guarded.table_prefix)
    store = AlternatorTaskStore(client, CLOCK, prefix=guarded.table_prefix, shards=4)
    tasks = create(store, 5)
    with_queue(guarded, lambda queue: work(queue, tasks))
    assert [store.get(task.id).result for task in tasks] == ["done"] * 5
    client.close()


@pytest.mark.parametrize("wrong", WRONG)
def test_refused_credentials_are_told_at_once(guarded: Settings, nodes: Front, wrong: str) -> None:
    settings = replace(guarded, **WRONG[wrong])
    client = connected(settings)
    store = AlternatorTaskStore(client, CLOCK, prefix=settings.table_prefix, shards=4)
    task = new_task(IDS, send_ts_ms=CLOCK.now_ms())
    said = "ALTERNATOR_USER and ALTERNATOR_SECRET"
    for ask in (lambda: store.create(task), store.check):
        nodes.seen.clear()
        with pytest.raises(StoreUnavailable, match=said):
            ask()
        assert len(nodes.seen) == 1, "asked once, not again and again"
    client.close()
    nodes.seen.clear()
    with pytest.raises(StoreUnavailable, match=said):
        with_queue(settings, lambda queue: read(queue, 1))
    assert len(nodes.seen) == 1


def test_api_with_refused_credentials_is_unavailable_at_once(
    guarded: Settings,
    nodes: Front,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connected(replace(guarded, secret="wrong"))
    store = AlternatorTaskStore(client, CLOCK, prefix=guarded.table_prefix, shards=4)
    api = Api(store, CLOCK, new_id=IDS)
    monkeypatch.setattr(entry, "service", lambda: api)
    body = json.dumps({"type": "Baz", "send_ts": "2030-01-01T00:00:00Z"}).encode()
    response = Caller(entry.app, project_dir=str(ROOT)).http.post("/task", headers=JSON, body=body)
    expect_error(response, 503, "StoreUnavailable")
    assert len(nodes.seen) == 1
    assert "ALTERNATOR_USER and ALTERNATOR_SECRET" in caplog.text
    client.close()


@pytest.mark.parametrize("wrong", WRONG)
def test_worker_does_not_start_with_refused_credentials(
    guarded: Settings, nodes: Front, wrong: str
) -> None:
    done = start_worker(replace(guarded, **WRONG[wrong]))
    assert done.returncode == 2
    assert done.stderr.count("ALTERNATOR_USER and ALTERNATOR_SECRET") == 1
    assert "Traceback" not in done.stderr
    assert len(nodes.seen) == 1


def test_processor_whose_credentials_are_revoked_says_so_and_goes_on(
    guarded: Settings, nodes: Front, caplog: pytest.LogCaptureFixture
) -> None:
    until_ms = CLOCK.now_ms() + 12_500
    nodes.check = signature_check("another", "secret")
    tick.run(lambda: until_ms - CLOCK.now_ms(), guarded, CLOCK)
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("ALTERNATOR_USER and ALTERNATOR_SECRET" in r.getMessage() for r in records)
    assert not [record for record in records if record.exc_info]
    assert len(nodes.seen) < 60


def start_worker(settings: Settings) -> "subprocess.CompletedProcess[str]":
    """Until it ends by itself, within 20 s."""
    command = [sys.executable, "-m", "worker"]
    env = service_env(settings)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=20)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(
    client: Client, settings: Settings, engine: Engine, authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[Settings, Front]]:
    """Nodes with certificates for their addresses, and settings that trust who issued them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with front(engine.settings, *HOSTS, tls=context) as nodes:
        yield replace(settings, endpoints=(nodes.url(),), ca_file=str(ca_file)), nodes


def test_both_clients_speak_tls_with_all_nodes(secured: tuple[Settings, Front]) -> None:
    settings, nodes = secured
    client = connected(settings)
    store = AlternatorTaskStore(client, CLOCK, prefix=settings.table_prefix, shards=4)
    tasks = create(store, 12)
    assert nodes.counts().keys() == set(HOSTS)
    nodes.seen.clear()
    with_queue(settings, lambda queue: work(queue, tasks))
    assert nodes.counts().keys() == set(HOSTS)
    assert [store.get(task.id).result for task in tasks] == ["done"] * 12
    client.close()


@pytest.mark.parametrize("has_file", [True, False])
def test_certificate_of_somebody_else_is_named(
    secured: tuple[Settings, Front], tmp_path: Path, has_file: bool
) -> None:
    settings, nodes = secured
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    settings = replace(settings, ca_file=str(other) if has_file else None)
    client = connected(settings)
    store = AlternatorTaskStore(client, CLOCK, prefix=settings.table_prefix, shards=4)
    started_s = CLOCK.monotonic_s()
    with pytest.raises(StoreUnavailable, match="ALTERNATOR_CA_FILE"):
        create(store, 1)
    with pytest.raises(StoreUnavailable, match="ALTERNATOR_CA_FILE"):
        store.check()
    assert CLOCK.monotonic_s() - started_s < 5
    client.close()

    async def ask(queue: AlternatorTaskQueue) -> None:
        with pytest.raises(StoreUnavailable, match="ALTERNATOR_CA_FILE"):
            deadline_s = CLOCK.monotonic_s() + 0.5
            await queue._requester.decide(Request("ListTables", {}), deadline_s=deadline_s)

    with_queue(settings, ask)
    assert nodes.seen == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_file_without_certificates_is_refused(
    secured: tuple[Settings, Front], tmp_path: Path, content: bytes | None
) -> None:
    settings, _ = secured
    file = tmp_path / "odd.pem"
    if content is not None:
        file.write_bytes(content)
    settings = replace(settings, ca_file=str(file))
    with pytest.raises(InvalidSetting, match=r"ALTERNATOR_CA_FILE=.*odd\.pem"):
        connected(settings)
    with pytest.raises(InvalidSetting, match=r"ALTERNATOR_CA_FILE=.*odd\.pem"):
        with_queue(settings, lambda queue: read(queue, 1))
    done = start_worker(settings)
    assert (done.returncode, done.stderr.count("ALTERNATOR_CA_FILE")) == (2, 1)
