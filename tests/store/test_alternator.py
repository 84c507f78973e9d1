"""What the contract suites cannot show: lost answers, wrong tables, odd rows."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from chalicelib.attempts import LEASE_MS, Attempt, Outcome
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import (
    SchedulerError,
    StoreBusy,
    StoreMismatch,
    StoreReadOnly,
    StoreUnavailable,
    TaskExists,
    TaskNotFailed,
    TaskNotFound,
    UnreadableTask,
)
from chalicelib.store.alternator import outcome, requests, rows, tables
from chalicelib.store.alternator.index_rows import Named
from chalicelib.store.alternator.outcome import ConditionFailed, Unanswered
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.pruning import OPEN_KEPT_S
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import Transport
from chalicelib.store.contract import Hint, Refused, TaskFilter
from chalicelib.task import Task, TaskState, shard_of
from tests.support.engine import Engine
from tests.support.fakes import NOON_MS, FakeClock, Ids, NoLot, hint_of, new_task
from tests.support.front import HOSTS, Front, front, permission_check
from tests.support.profile import CheckedTransport
from tests.support.wires import BotoWire, FaultyWire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MINUTE_MS = 60_000
IDS = Ids(7)


@pytest.fixture
def faulty(wire: CheckedTransport, client: Client) -> FaultyWire:
    return FaultyWire(wire)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(
    thread: LoopThread, faulty: FaultyWire, settings: Settings, clock: FakeClock
) -> AlternatorTaskStore:
    client = Client(thread, Requester(faulty, clock, rng=Random(1), sleep=clock.sleep))
    prefix, shards = settings.table_prefix, settings.shards
    return AlternatorTaskStore(client, clock, prefix=prefix, shards=shards, rng=NoLot())


def task_at(ms: int = NOON_MS, now_ms: int = NOON_MS) -> Task:
    return new_task(IDS, send_ts_ms=ms, now_ms=now_ms)


# The views' store under lost answers


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("code", ["InternalServerError", "RequestLimitExceeded"])
def test_create_whose_answer_was_lost_creates_one_task(
    store: AlternatorTaskStore, faulty: FaultyWire, when: str, code: str
) -> None:
    faulty.lose("PutItem", when, outcome.failure(code, "sorry", 500 if "Internal" in code else 400))
    task = task_at()
    assert store.create(task) == task
    assert [listed.id for listed in store.list(TaskFilter()).tasks] == [task.id]


def test_delete_whose_answer_was_lost_is_a_delete(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    task = store.create(task_at())
    faulty.lose("UpdateItem")
    store.delete(task.id, now_ms=NOON_MS, token=IDS())
    with pytest.raises(TaskNotFound):
        store.get(task.id)
    with pytest.raises(TaskNotFound):
        store.delete(task.id, now_ms=NOON_MS, token=IDS())


def failed(client: Client, settings: Settings) -> Task:
    """A failed task to which no row leads."""
    held = task_at().claimed(now_ms=NOON_MS, claim=IDS(), processor="p")
    task = held.failed("boom", now_ms=NOON_MS + 7)
    client.decide(requests.create(f"{settings.table_prefix}tasks", task))
    return task


@pytest.mark.parametrize("when", ["before", "after"])
def test_retry_whose_answer_was_lost_is_one_retry(
    store: AlternatorTaskStore, faulty: FaultyWire, client: Client, settings: Settings, when: str
) -> None:
    task = failed(client, settings)
    faulty.lose("UpdateItem", when)
    again = store.retry(task.id, now_ms=NOON_MS + 9, token="t")
    assert again == task.retried(now_ms=NOON_MS + 9, token="t") == store.get(task.id)


def test_of_a_retry_the_rows_are_put_before_the_task(
    store: AlternatorTaskStore, faulty: FaultyWire, client: Client, settings: Settings
) -> None:
    task = failed(client, settings)
    with faulty.meanwhile() as sent:
        store.retry(task.id, now_ms=NOON_MS + 9, token="t")
    before = sent[: sent.index("UpdateItem")]
    assert (before[0], set(before[1:])) == ("GetItem", {"BatchWriteItem"})
    for _ in range(1000):
        faulty.lose("BatchWriteItem", "before")
    other = failed(client, settings)
    with faulty.meanwhile() as sent, pytest.raises(StoreUnavailable):
        store.retry(other.id, now_ms=NOON_MS + 9, token="t")
    assert "UpdateItem" not in sent
    assert store.get(other.id) == other


def test_row_that_is_deleted_in_the_middle_of_a_retry_is_put_again(
    store: AlternatorTaskStore, faulty: FaultyWire, client: Client, settings: Settings
) -> None:
    task = failed(client, settings)
    row = Indexes(settings.table_prefix, settings.shards).open_row(store.get(task.id))
    faulty.before["UpdateItem"] = lambda: client.decide(requests.delete_row(row.table, row.key))
    again = store.retry(task.id, now_ms=NOON_MS + 9, token="t")
    scheduled = TaskFilter(states=frozenset({TaskState.SCHEDULED}))
    assert store.list(scheduled).tasks == [again]


@pytest.mark.parametrize("lost", [False, True])
def test_task_that_is_run_again_and_deleted_meanwhile_is_deleted(
    store: AlternatorTaskStore, faulty: FaultyWire, client: Client, settings: Settings, lost: bool
) -> None:
    """A delete that was answered stands, also if the retry is sent again after it."""
    task = failed(client, settings)
    other = AlternatorTaskStore(
        client, SystemClock(), prefix=settings.table_prefix, shards=settings.shards
    )
    if lost:
        faulty.lose("UpdateItem", "before")
    faulty.before["UpdateItem"] = lambda: other.delete(task.id, now_ms=NOON_MS + 8, token="d")
    with pytest.raises(TaskNotFound):
        store.retry(task.id, now_ms=NOON_MS + 9, token="t")
    assert store.list(TaskFilter()).tasks == []
    with pytest.raises(TaskNotFound):
        store.get(task.id)


def test_task_that_failed_anew_in_the_middle_of_a_retry_is_run_again(
    store: AlternatorTaskStore, faulty: FaultyWire, client: Client, settings: Settings
) -> None:
    task = failed(client, settings)
    table = f"{settings.table_prefix}tasks"

    def fail_anew() -> None:
        again = task.retried(now_ms=NOON_MS + 8, token="t1")
        client.decide(requests.retry(table, task, again))
        held = again.claimed(now_ms=NOON_MS + 8, claim="c", processor="p")
        client.decide(requests.claim(table, task.id, claim="c", processor="p", now_ms=NOON_MS + 8))
        client.decide(requests.change(table, held, held.failed("boom", now_ms=NOON_MS + 8)))

    faulty.before["UpdateItem"] = fail_anew
    again = store.retry(task.id, now_ms=NOON_MS + 9, token="t2")
    assert (again.state, again.attempt, again.leases_lost) == (TaskState.SCHEDULED, 2, 0)
    assert store.get(task.id) == again


def test_retry_of_what_has_not_failed_puts_nothing(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    task = store.create(task_at())
    with faulty.meanwhile() as sent, pytest.raises(TaskNotFailed):
        store.retry(task.id, now_ms=NOON_MS + 9, token="t")
    assert sent == ["GetItem"]


def test_rows_whose_delete_failed_are_not_shown(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    task = store.create(task_at())
    for _ in range(1000):
        faulty.lose("BatchWriteItem", "before")
    store.delete(task.id, now_ms=NOON_MS, token=IDS())
    assert store.list(TaskFilter()).tasks == []


def test_store_that_never_answers_is_given_up(
    store: AlternatorTaskStore, faulty: FaultyWire, clock: FakeClock
) -> None:
    for _ in range(1000):
        faulty.lose("GetItem", "before")
    with pytest.raises(StoreUnavailable):
        store.get(IDS())
    assert 7 < clock.elapsed_s <= 8


def test_a_store_without_room_is_told_from_one_that_is_away_or_busy(
    store: AlternatorTaskStore, faulty: FaultyWire, clock: FakeClock
) -> None:
    store.check_writes()
    store.check_writes()
    assert faulty.sent == ["PutItem"] * 2
    assert store.heartbeats() == []
    for _ in range(1000):
        full = outcome.failure("InternalServerError", "database or disk is full", 500)
        faulty.lose("PutItem", "before", full)
    with pytest.raises(StoreReadOnly, match="disk is full"):
        store.check_writes()
    assert 3 < clock.elapsed_s <= 5
    faulty.faults.clear()
    faulty.lose("PutItem", "before", StoreBusy("the line is long"))
    with pytest.raises(StoreBusy):
        store.check_writes()


def test_rows_are_put_before_the_task(store: AlternatorTaskStore, faulty: FaultyWire) -> None:
    """A crash in between leaves rows that lead nowhere, never a task that nothing leads to."""
    for _ in range(1000):
        faulty.lose("BatchWriteItem", "before")
    with pytest.raises(StoreUnavailable):
        store.create(task_at())
    assert "PutItem" not in faulty.sent


def test_second_task_of_a_bucket_costs_two_requests(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    first = store.create(task_at(NOON_MS + MINUTE_MS))
    faulty.sent.clear()
    again = Task.new(
        id=first.id[:-1] + first.id[-1],
        type="Baz",
        send_ts_ms=NOON_MS + MINUTE_MS,
        now_ms=NOON_MS,
        token=first.token,
    )
    store.create(again)
    assert faulty.sent == ["BatchWriteItem", "PutItem"]


def test_wrong_request_is_no_outage(store: AlternatorTaskStore, faulty: FaultyWire) -> None:
    faulty.lose("GetItem", "before", outcome.failure("ValidationException", "sorry", 400))
    with pytest.raises(SchedulerError, match="refused a request: ValidationException"):
        store.get(IDS())
    faulty.lose("GetItem", "before", outcome.failure("UnrecognizedClientException", "sorry", 400))
    with pytest.raises(StoreUnavailable, match=r"ALTERNATOR_USER and ALTERNATOR_SECRET"):
        store.get(IDS())


@pytest.mark.parametrize(
    "code",
    [
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    ],
)
def test_refused_credentials_are_a_refusal(code: str) -> None:
    error = outcome.failure(code, "sorry", 400)
    assert isinstance(error, StoreUnavailable) and outcome.is_refusal(error)
    assert str(error).endswith(f"ALTERNATOR_USER and ALTERNATOR_SECRET: {code}: sorry")


def test_missing_permission_is_none_of_the_credentials(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    words = "SELECT access on table alternator_tasks.tasks is denied to role scheduler"
    faulty.lose("GetItem", "before", outcome.failure("AccessDeniedException", words, 400))
    with pytest.raises(StoreUnavailable, match=f"role may not do this: {words}") as raised:
        store.get(IDS())
    assert "SECRET" not in str(raised.value)
    assert not outcome.is_refusal(raised.value), "a grant mends it while we wait"


@pytest.mark.own_tables
def test_missing_table_is_named(
    store: AlternatorTaskStore, raw_client: "DynamoDBClient", settings: Settings
) -> None:
    raw_client.delete_table(TableName=f"{settings.table_prefix}tasks")
    with pytest.raises(StoreMismatch):
        store.get(IDS())


def test_record_of_a_newer_version_is_left_out_of_lists(
    store: AlternatorTaskStore, raw_client: "DynamoDBClient", settings: Settings
) -> None:
    task = store.create(task_at())
    newer: Any = requests.encode_task(task) | {"state": {"S": "paused"}, "extra": {"S": "x"}}
    raw_client.put_item(TableName=f"{settings.table_prefix}tasks", Item=newer)
    assert store.list(TaskFilter()).tasks == []
    with pytest.raises(UnreadableTask):
        store.get(task.id)


def test_page_is_cut_short_when_little_fits(
    client: Client, settings: Settings, clock: FakeClock
) -> None:
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, examined_max=60)
    for i in range(120):
        store.create(task_at(NOON_MS + i))
    page = store.list(TaskFilter(states=frozenset({TaskState.COMPLETED}), limit=10))
    assert page.tasks == []
    assert page.next is not None
    assert page.next.send_ts_ms == NOON_MS + 99


def test_pending_is_found_without_walking_history(
    thread: LoopThread, store: AlternatorTaskStore, faulty: FaultyWire, clock: FakeClock
) -> None:
    for i in range(30):
        task = store.create(task_at(NOON_MS - i * 3_600_000))
        thread.run(store._rows.delete(task))
    pending = store.create(task_at(NOON_MS + 5))
    faulty.sent.clear()
    page = store.list(TaskFilter(states=frozenset({TaskState.SCHEDULED})))
    assert list(page.tasks) == [pending]
    assert len(faulty.sent) < 60


# Tables


@pytest.fixture
def moto(thread: LoopThread, moto_client: "DynamoDBClient", clock: FakeClock) -> Client:
    return Client(thread, Requester(BotoWire(moto_client), clock))


def test_tables_of_something_else_are_refused(moto: Client, moto_client: "DynamoDBClient") -> None:
    moto_client.delete_table(TableName="workers")
    boto3.client("dynamodb", region_name="us-east-1").create_table(
        TableName="workers",
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(StoreMismatch, match="table workers has keys"):
        tables.verify(moto)


def test_table_with_other_write_isolation_is_refused(
    moto: Client, moto_client: "DynamoDBClient"
) -> None:
    arn = moto_client.describe_table(TableName="tasks")["Table"]["TableArn"]
    tag: Any = {"Key": tables.ISOLATION, "Value": "unsafe_rmw"}
    moto_client.tag_resource(ResourceArn=arn, Tags=[tag])
    with pytest.raises(StoreMismatch, match="tasks has tag system:write_isolation unsafe_rmw"):
        tables.verify(moto)


def test_missing_table_is_refused_and_created(moto: Client, moto_client: "DynamoDBClient") -> None:
    moto_client.delete_table(TableName="schedule")
    with pytest.raises(StoreMismatch, match="table schedule is missing"):
        tables.verify(moto)
    tables.create(moto)
    tables.verify(moto)
    tables.warm_up(moto)


def test_table_that_was_created_although_it_said_no(
    thread: LoopThread, wire: CheckedTransport, client: Client, settings: Settings, clock: FakeClock
) -> None:
    faulty = FaultyWire(wire)
    faulty.lose("CreateTable")
    prefix = settings.table_prefix + "again_"
    tables.create(
        Client(thread, Requester(faulty, clock, sleep=clock.sleep)), prefix, sleep=clock.tick
    )
    tables.verify(client, prefix)
    assert faulty.sent.count("CreateTable") == 1 + len(tables.TABLES)


def test_tables_that_are_there_are_not_created_again(
    thread: LoopThread,
    wire: CheckedTransport,
    client: Client,
    raw_client: "DynamoDBClient",
    settings: Settings,
) -> None:
    """The service's own role may not create any, and is enough."""
    prefix = settings.table_prefix
    faulty = FaultyWire(wire)
    tables.create(Client(thread, Requester(faulty, SystemClock())), prefix)
    assert "CreateTable" not in faulty.sent
    raw_client.delete_table(TableName=f"{prefix}timeline")
    tables.create(Client(thread, Requester(faulty, SystemClock())), prefix)
    assert faulty.sent.count("CreateTable") == 1
    tables.verify(client, prefix)


def test_tables_of_an_earlier_version_get_their_time_to_live(
    client: Client, raw_client: "DynamoDBClient", settings: Settings
) -> None:
    """Of `workers` nothing expired then. A role that may not set it is enough all the same."""
    name = f"{settings.table_prefix}workers"
    never: Any = {"Enabled": False, "AttributeName": tables.PURGE_ATTRIBUTE}
    raw_client.update_time_to_live(TableName=name, TimeToLiveSpecification=never)
    assert not tables.expires(client, name)
    with front(settings, HOSTS[0]) as nodes:
        nodes.check = permission_check({"SELECT", "MODIFY"})
        denied = Client.connect(replace(settings, endpoints=(nodes.url(),)), SystemClock())
        tables.create(denied, settings.table_prefix)
        denied.close()
    assert not tables.expires(client, name)
    tables.create(client, settings.table_prefix)
    assert tables.expires(client, name)


def test_table_that_another_created_meanwhile_is_taken(
    thread: LoopThread, wire: CheckedTransport, client: Client, settings: Settings
) -> None:
    """It is described as missing, as Alternator says that, and then there."""
    faulty = FaultyWire(wire)
    message = "Requested resource not found: Table: workers not found"
    absent = outcome.failure("ResourceNotFoundException", message, 400)
    for _ in tables.TABLES:
        faulty.lose("DescribeTable", "before", absent)
    tables.create(Client(thread, Requester(faulty, SystemClock())), settings.table_prefix)
    assert faulty.sent.count("CreateTable") == len(tables.TABLES)
    tables.verify(client, settings.table_prefix)


@pytest.mark.parametrize("action", ["DescribeTable", "ListTagsOfResource", "UpdateItem"])
def test_store_that_cannot_be_asked_is_unavailable(
    thread: LoopThread,
    wire: CheckedTransport,
    client: Client,
    settings: Settings,
    clock: FakeClock,
    action: str,
) -> None:
    faulty = FaultyWire(wire)
    for _ in range(1000):
        faulty.lose(action, "before")
    impatient = Client(thread, Requester(faulty, clock, sleep=clock.sleep, patience_s=0.5))
    with pytest.raises(StoreUnavailable, match="does not answer"):
        tables.verify(impatient, settings.table_prefix)
        tables.warm_up(impatient, settings.table_prefix)
    assert clock.elapsed_s <= 0.5


# The processors' queue under lost answers


class FaultyTransport:
    """Loses answers of the next requests that hold a text, in their action or their body.

    before: what happens once before a request that holds the text.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.lost: list[tuple[str, str]] = []
        self.sent: list[Request] = []
        self.always = False
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}

    async def send(self, request: Request, **options: Any) -> JsonObject:
        self.sent.append(request)
        for text in [text for text in self.before if text in str(request)]:
            await self.before.pop(text)()
        fault = next((lost for lost in self.lost if lost[0] in str(request)), None)
        if fault is None:
            return await self._transport.send(request, **options)
        if not self.always:
            self.lost.remove(fault)
        if fault[1] == "after":
            await self._transport.send(request, **options)
        raise Unanswered("lost")


class Queue:
    """A queue with a faulty transport, and a runner for its coroutines."""

    def __init__(self, settings: Settings, clock: FakeClock, runner: asyncio.Runner) -> None:
        async def open_transport() -> Transport:
            return CheckedTransport.open(settings, clock)

        self.run = runner.run
        self.real: Transport = runner.run(open_transport())
        self.transport = FaultyTransport(self.real)
        transport: Any = self.transport
        self.queue = AlternatorTaskQueue(
            transport, clock, prefix=settings.table_prefix, shards=settings.shards
        )

    def claim(
        self, task: Task, claim: str = "c1", *, processor: str = "p", now_ms: int = NOON_MS
    ) -> Task | Refused:
        hint = hint_of(task)
        answer: Task | Refused = self.run(
            self.queue.claim(hint, claim=claim, processor=processor, now_ms=now_ms, until_s=1.0)
        )
        return answer


@pytest.fixture
def faulty_queue(settings: Settings, client: Client, clock: FakeClock) -> Iterator[Queue]:
    with asyncio.Runner() as runner:
        queue = Queue(settings, clock, runner)
        yield queue
        runner.run(queue.real.close())


@pytest.mark.parametrize("when", ["before", "after"])
def test_claim_whose_answer_was_lost_is_ours(
    store: AlternatorTaskStore, faulty_queue: Queue, when: str
) -> None:
    task = store.create(task_at())
    faulty_queue.transport.lost = [("UpdateItem", when)] * 2
    held = faulty_queue.claim(task)
    assert isinstance(held, Task)
    assert (held.attempt, held.claim) == (1, "c1")
    assert isinstance(faulty_queue.claim(task, "c2"), Refused)


@pytest.mark.parametrize("when", ["before", "after"])
def test_settlement_whose_answer_was_lost_is_ours(
    store: AlternatorTaskStore, faulty_queue: Queue, when: str
) -> None:
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    faulty_queue.transport.lost = [("UpdateItem", when)] * 2
    done = held.completed("Baz 1", now_ms=NOON_MS)
    assert faulty_queue.run(faulty_queue.queue.settle(held, done, until_s=1.0))
    assert store.get(held.id) == done


def after_lease(queue: Queue, task: Task, claim: str) -> Task | Refused:
    return queue.claim(task, claim, processor="q", now_ms=NOON_MS + LEASE_MS)


@pytest.mark.parametrize("when", ["before", "after"])
def test_claim_after_a_lost_lease_whose_answer_was_lost_is_ours(
    store: AlternatorTaskStore, faulty_queue: Queue, when: str
) -> None:
    task = store.create(task_at())
    faulty_queue.claim(task)
    faulty_queue.transport.lost = [("was_claim", when)] * 2
    held = after_lease(faulty_queue, task, "c2")
    assert not faulty_queue.transport.lost
    assert held == store.get(task.id)
    assert isinstance(held, Task)
    assert (held.claim, held.due_at_ms) == ("c2", NOON_MS + 2 * LEASE_MS)
    assert held.attempts == (
        Attempt(1, "p", NOON_MS, NOON_MS + LEASE_MS, Outcome.LEASE_LOST),
        Attempt(2, "q", NOON_MS + LEASE_MS),
    )


@pytest.mark.parametrize(
    ("first", "state", "claim"),
    [
        ("another claim", TaskState.RUNNING, "c2"),
        ("settlement", TaskState.COMPLETED, "c1"),
        ("retry", TaskState.SCHEDULED, "c1"),
        ("delete", TaskState.DELETED, None),
    ],
)
def test_claim_after_a_lost_lease_that_others_came_before_is_refused(
    store: AlternatorTaskStore, faulty_queue: Queue, first: str, state: TaskState, claim: str | None
) -> None:
    """They come between the look at the task and the claim of it."""
    task = store.create(task_at())
    held = faulty_queue.claim(task)
    assert isinstance(held, Task)
    over_ms = NOON_MS + LEASE_MS

    async def act() -> None:
        queue = faulty_queue.queue
        if first == "another claim":
            hint = hint_of(task, NOON_MS)
            await queue.claim(hint, claim="c2", processor="r", now_ms=over_ms, until_s=1.0)
        elif first == "settlement":
            await queue.settle(held, held.completed("Baz 1", now_ms=over_ms), until_s=1.0)
        elif first == "retry":
            retried = held.failed_once("boom", now_ms=over_ms, jitter=lambda: 0.0)
            await queue.settle(held, retried, until_s=1.0)
        else:
            store.delete(task.id, now_ms=over_ms, token="t")

    faulty_queue.transport.before = {"was_claim": act}
    refused = after_lease(faulty_queue, task, "c3")
    assert isinstance(refused, Refused) and refused.task is not None
    stands = faulty_queue.run(faulty_queue.queue.get([task.id]))[task.id]
    assert stands == refused.task
    assert (stands.state, stands.claim) == (state, claim)


def take_over(queue: Queue, task: Task, *lost: str) -> Task | Refused:
    hint = hint_of(task, NOON_MS)
    answer: Task | Refused = queue.run(
        queue.queue.take_over(
            hint, lost=lost, claim="heir", processor="q", now_ms=NOON_MS + 300, until_s=1.0
        )
    )
    return answer


@pytest.mark.parametrize("when", ["before", "after"])
def test_takeover_whose_answer_was_lost_is_ours(
    store: AlternatorTaskStore, faulty_queue: Queue, when: str
) -> None:
    task = store.create(task_at())
    faulty_queue.claim(task, "dead")
    faulty_queue.transport.lost = [("was_claim", when)] * 2 + [("GetItem", "before")]
    held = take_over(faulty_queue, task, "dead")
    assert not faulty_queue.transport.lost
    assert isinstance(held, Task)
    assert (held.claim, held.attempt) == ("heir", 2)
    assert held == store.get(task.id)


@pytest.mark.parametrize("first", ["GetItem", "UpdateItem"])
def test_takeover_of_a_claim_that_is_applied_after_its_process_died(
    store: AlternatorTaskStore, faulty_queue: Queue, first: str
) -> None:
    """Before, or after, the heir has seen that the task is not claimed."""
    task = store.create(task_at())

    async def arrive() -> None:
        request = requests.claim(
            faulty_queue.queue._tasks, task.id, claim="dead", processor="p", now_ms=NOON_MS
        )
        await faulty_queue.real.send(request, key=task.id, attempt=0, timeout_s=5)

    faulty_queue.transport.before = {first: arrive}
    held = take_over(faulty_queue, task, "dead")
    assert isinstance(held, Task)
    assert [one.processor for one in held.attempts] == ["p", "q"]
    assert held == store.get(task.id)


def test_takeover_of_a_takeover_that_is_applied_after_its_process_died(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    """The heir of the heir has seen the first claim, then the second one stands."""
    task = store.create(task_at())
    first = faulty_queue.claim(task, "dead")
    assert isinstance(first, Task)
    second = first.taken_over(now_ms=NOON_MS + 200, claim="dead too", processor="r")

    async def arrive() -> None:
        request = requests.change(faulty_queue.queue._tasks, first, second)
        await faulty_queue.real.send(request, key=task.id, attempt=0, timeout_s=5)

    faulty_queue.transport.before = {"UpdateItem": arrive}
    held = take_over(faulty_queue, task, "dead", "dead too")
    assert held == second.taken_over(now_ms=NOON_MS + 300, claim="heir", processor="q")
    assert held == store.get(task.id)


def test_takeover_that_cannot_read_has_written_nothing(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    task = store.create(task_at())
    dead = faulty_queue.claim(task, "dead")
    faulty_queue.transport.lost, faulty_queue.transport.always = [("GetItem", "before")], True
    faulty_queue.queue._requester._sleep = FakeClock().sleep
    with pytest.raises(StoreBusy):
        take_over(faulty_queue, task, "dead")
    assert store.get(task.id) == dead


@pytest.mark.parametrize("then", ["runs", "is retried", "is given back", "is completed"])
def test_writes_of_a_claim_that_come_late_change_nothing(
    store: AlternatorTaskStore, faulty_queue: Queue, then: str
) -> None:
    """Both of those that claimed a lost lease, and the one that had lost it, arrive once more."""
    task = store.create(task_at())
    faulty_queue.claim(task)
    held = after_lease(faulty_queue, task, "c2")
    assert isinstance(held, Task)
    late, now_ms = list(faulty_queue.transport.sent), NOON_MS + LEASE_MS
    assert len(late) == 3
    settled = {
        "runs": held,
        "is retried": held.failed_once("boom", now_ms=now_ms, jitter=lambda: 0.0),
        "is given back": held.released(now_ms=now_ms, hint_due_ms=now_ms),
        "is completed": held.completed("Baz 1", now_ms=now_ms),
    }[then]
    if settled is not held:
        assert faulty_queue.run(faulty_queue.queue.settle(held, settled, until_s=1.0))
    for request in late:
        with pytest.raises(ConditionFailed):
            faulty_queue.run(faulty_queue.real.send(request, key=task.id, attempt=0, timeout_s=5))
    assert store.get(task.id) == settled


def test_claim_after_a_lost_lease_has_time_for_both_writes(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    """A slow store: the first write takes all the time there is for one."""
    task = store.create(task_at())
    faulty_queue.claim(task)

    async def take_long() -> None:
        clock.tick(1.1)

    faulty_queue.transport.before = {":scheduled": take_long}
    faulty_queue.transport.lost = [("was_claim", "after")]
    held = after_lease(faulty_queue, task, "c2")
    assert isinstance(held, Task)
    assert held == store.get(task.id)


def test_a_claim_costs_one_request_and_after_a_lost_lease_two(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    task = store.create(task_at())
    held = faulty_queue.claim(task)
    assert isinstance(held, Task)
    retried = held.failed_once("boom", now_ms=NOON_MS, jitter=lambda: 0.0)
    retried = replace(retried, due_at_ms=NOON_MS)
    faulty_queue.run(faulty_queue.queue.settle(held, retried, until_s=1.0))
    faulty_queue.transport.sent.clear()
    again = faulty_queue.claim(task, "c2")
    assert isinstance(again, Task) and again.attempt == 2
    assert len(faulty_queue.transport.sent) == 1
    assert isinstance(after_lease(faulty_queue, task, "c3"), Task)
    assert len(faulty_queue.transport.sent) == 3


def test_attempts_cost_no_request(store: AlternatorTaskStore, faulty_queue: Queue) -> None:
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    done = held.started(NOON_MS + 1).completed("Baz 1", now_ms=NOON_MS + 2)
    assert faulty_queue.run(faulty_queue.queue.settle(held, done, until_s=1.0))
    assert [request.action for request in faulty_queue.transport.sent] == ["UpdateItem"] * 2
    conditions = [request.body["ConditionExpression"] for request in faulty_queue.transport.sent]
    assert not any("attempts" in condition for condition in conditions)
    assert store.get(held.id).attempts == (
        Attempt(1, "p", NOON_MS + 1, NOON_MS + 2, Outcome.COMPLETED),
    )


def test_batch_shares_the_writes_of_its_rows(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    store.create_many([task_at(NOON_MS + MINUTE_MS) for _ in range(100)])
    faulty.sent.clear()
    assert len(store.create_many([task_at(NOON_MS + MINUTE_MS) for _ in range(100)])) == 100
    assert Counter(faulty.sent) == {
        "BatchGetItem": 1,
        "BatchWriteItem": 300 // 25,
        "PutItem": 100,
    }


def test_batch_whose_answer_was_lost_is_not_lost(
    store: AlternatorTaskStore, faulty: FaultyWire
) -> None:
    tasks = [task_at() for _ in range(10)]
    for when in ("before", "after"):
        faulty.lose("PutItem", when)
    assert store.create_many(tasks) == tasks
    for _ in range(1000):
        faulty.lose("BatchWriteItem", "before")
    failed = store.create_many([task_at(), task_at()])
    assert [type(error) for error in failed] == [StoreUnavailable] * 2


@pytest.mark.parametrize("deletes", ["sweep", "flush"])
def test_task_that_is_run_again_while_its_row_is_deleted_stays_listed(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock, deletes: str
) -> None:
    """The deletion was decided on when the task was failed, and comes last."""
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    task = held.failed("boom", now_ms=NOON_MS + 7)
    faulty_queue.run(faulty_queue.queue.settle(held, task, until_s=1.0))

    async def run_again() -> None:
        await asyncio.to_thread(store.retry, task.id, now_ms=NOON_MS + 9, token="t")

    async def delete() -> None:
        queue = faulty_queue.queue
        if deletes == "sweep":
            await queue.sweep_overdue(now_ms=NOON_MS + 2 * MINUTE_MS)
        else:
            await queue.forget_open(task)
            clock.tick(OPEN_KEPT_S)
            await queue.flush()

    faulty_queue.transport.before["DeleteRequest"] = run_again
    faulty_queue.run(delete())
    scheduled = TaskFilter(states=frozenset({TaskState.SCHEDULED}))
    assert [listed.token for listed in store.list(scheduled).tasks] == ["t"]


def test_retry_puts_its_hint_before_the_task(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    faulty_queue.transport.sent.clear()
    again = held.failed_once("boom", now_ms=NOON_MS, jitter=lambda: 0.0)
    faulty_queue.run(faulty_queue.queue.settle(held, again, until_s=1.0))
    actions = [request.action for request in faulty_queue.transport.sent]
    assert actions == ["BatchWriteItem", "BatchWriteItem", "UpdateItem"], "directory, hint, task"


FAILED = TaskFilter(states=frozenset({TaskState.FAILED}))


def test_of_a_failure_the_row_is_put_before_the_task(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    settled, sent = held.failed("boom", now_ms=NOON_MS), faulty_queue.transport.sent
    sent.clear()
    faulty_queue.transport.lost = [("BatchWriteItem", "before")]
    faulty_queue.transport.always = True
    with pytest.raises(StoreUnavailable):
        faulty_queue.run(faulty_queue.queue.settle(held, settled, until_s=0.2))
    assert "UpdateItem" not in [request.action for request in sent]
    faulty_queue.transport.lost = []
    faulty_queue.run(faulty_queue.queue.settle(held, settled, until_s=1.0))
    assert store.list(FAILED).tasks == [settled]


def test_row_of_a_failure_that_was_never_committed_is_swept(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    """Its processor died between the row and the task, and the next attempt is completed."""
    task, queue = store.create(task_at()), faulty_queue.queue
    held = faulty_queue.claim(task)
    assert isinstance(held, Task)
    put = queue._rows.put_failed(held.failed("boom", now_ms=NOON_MS), 1.0)
    faulty_queue.run(put)
    failed_rows = _listed(queue, queue._indexes.failed.table, "failed")
    assert len(faulty_queue.run(failed_rows)) == 1
    faulty_queue.run(queue.settle(held, held.completed("x", now_ms=NOON_MS), until_s=1.0))
    assert store.list(FAILED).tasks == []
    assert faulty_queue.run(queue.sweep_some(10_000, now_ms=NOON_MS)) == 1
    failed_rows = _listed(queue, queue._indexes.failed.table, "failed")
    assert faulty_queue.run(failed_rows) == []


def test_task_that_an_earlier_version_failed_is_listed_after_a_sweep(
    store: AlternatorTaskStore,
    faulty_queue: Queue,
    client: Client,
    settings: Settings,
    clock: FakeClock,
) -> None:
    """A processor of that version, beside an API of this one, puts no row in `failed`."""
    held = faulty_queue.claim(store.create(task_at()))
    assert isinstance(held, Task)
    failed = held.failed("no", now_ms=NOON_MS)
    client.decide(requests.change(f"{settings.table_prefix}tasks", held, failed))
    sweep = faulty_queue.queue.sweep_some
    assert faulty_queue.run(sweep(10_000, now_ms=NOON_MS)) == 1
    assert store.list(FAILED).tasks == [failed]
    clock.tick(601)
    assert faulty_queue.run(sweep(10_000, now_ms=NOON_MS)) == 0


def test_task_that_failed_is_listed_so_until_it_is_completed(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    """Its row stays while it is run again, and is deleted with its completion, or with itself."""
    queue = faulty_queue.queue

    def failed_rows() -> list[int]:
        slot = _listed(queue, queue._indexes.failed.table, "failed")
        found: list[int] = faulty_queue.run(slot)
        return found

    for end in ("complete", "delete"):
        held = faulty_queue.claim(store.create(task_at()))
        assert isinstance(held, Task)
        faulty_queue.run(queue.settle(held, held.failed("no", now_ms=NOON_MS), until_s=1.0))
        again = store.retry(held.id, now_ms=NOON_MS + 9, token="t")
        assert len(failed_rows()) == 1
        assert store.list(FAILED).tasks == []
        if end == "complete":
            held = faulty_queue.claim(again, claim="c2", now_ms=NOON_MS + 9)
            assert isinstance(held, Task)
            done = held.completed("x", now_ms=NOON_MS + 9)
            faulty_queue.run(queue.settle(held, done, until_s=1.0))
            faulty_queue.run(queue.forget_open(done))
            faulty_queue.run(queue.flush())
        else:
            store.delete(held.id, now_ms=NOON_MS + 9, token="d")
        assert failed_rows() == []


def test_unknown_outcome_is_chased_no_longer_than_allowed(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    task = store.create(task_at())
    faulty_queue.transport.lost = [("UpdateItem", "before")]
    faulty_queue.transport.always = True
    clock.tick(0.99)

    async def tick_later() -> None:
        await asyncio.sleep(0.05)
        clock.tick(0.02)

    async def both() -> None:
        hint = hint_of(task, NOON_MS)
        options: Any = {"claim": "c", "processor": "p", "now_ms": NOON_MS, "until_s": 1.0}
        await asyncio.gather(faulty_queue.queue.claim(hint, **options), tick_later())

    with pytest.raises(StoreUnavailable):
        faulty_queue.run(both())


def test_failed_clean_up_is_kept_whole(store: AlternatorTaskStore, faulty_queue: Queue) -> None:
    task = store.create(task_at())
    queue = faulty_queue.queue
    faulty_queue.run(queue.forget_hint(hint_of(task, NOON_MS)))
    faulty_queue.run(queue.forget_open(task))
    faulty_queue.transport.lost = [("BatchWriteItem", "before")] * 3
    faulty_queue.run(queue.flush())
    shard = next(iter(faulty_queue.run(queue.shards())))
    for shard in range(4):
        page = faulty_queue.run(
            queue.due(shard, since_ms=None, until_ms=NOON_MS + 1, limit=10, resume=None)
        )
        assert page.hints == []


def hints_of(queue: Queue, shard: int) -> list[Hint]:
    page = queue.run(
        queue.queue.due(shard, since_ms=None, until_ms=NOON_MS + 1, limit=500, resume=None)
    )
    return list(page.hints)


def in_one_shard(store: AlternatorTaskStore, count: int) -> list[Hint]:
    """Hints of as many tasks of shard 0."""
    tasks = (task_at() for _ in itertools.count())
    mine = itertools.islice((task for task in tasks if shard_of(task.id, 4) == 0), count)
    return sorted(hint_of(store.create(task)) for task in mine)


def test_flush_leaves_what_was_asked_for_lately(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    early, late = in_one_shard(store, 2)
    for hint in (early, late):
        faulty_queue.run(faulty_queue.queue.forget_hint(hint))
        clock.tick(3)
    faulty_queue.run(faulty_queue.queue.forget_hint(early))
    faulty_queue.run(faulty_queue.queue.flush(age_s=5))
    assert hints_of(faulty_queue, 0) == [late], "asked for again, it is not younger"
    faulty_queue.run(faulty_queue.queue.flush())
    assert hints_of(faulty_queue, 0) == []


def test_more_deletions_than_may_wait_are_sent_oldest_first(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    faulty_queue.queue._obsolete._kept = 30
    hints = in_one_shard(store, 70)
    for hint in hints:
        faulty_queue.run(faulty_queue.queue.forget_hint(hint))
    faulty_queue.run(faulty_queue.queue.flush(age_s=5))
    assert hints_of(faulty_queue, 0) == hints[40:]


def test_deletions_of_a_flush_that_is_ended_are_made_by_the_next(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    queue, transport = faulty_queue.queue, faulty_queue.transport
    for hint in in_one_shard(store, 60):
        faulty_queue.run(queue.forget_hint(hint))
    transport.lost, transport.always = [("BatchWriteItem", "before")], True

    async def ended() -> None:
        flushing = asyncio.create_task(queue.flush())
        await asyncio.sleep(0.1)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing

    faulty_queue.run(ended())
    assert len(hints_of(faulty_queue, 0)) == 60
    transport.lost = []
    faulty_queue.run(queue.flush())
    assert hints_of(faulty_queue, 0) == []


def test_shards_without_hints_are_found_by_one_request(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    """What was named is not asked for again; and nothing is, of one shard only."""
    queue, sent = faulty_queue.queue, faulty_queue.transport.sent

    def occupied(shards: Collection[int], since_ms: int = NOON_MS) -> set[int]:
        sent.clear()
        asked = queue.occupied(shards, since_ms=since_ms, until_ms=since_ms + 1_000)
        return set(faulty_queue.run(asked))

    assert occupied(range(4)) == set()
    assert [request.action for request in sent] == ["BatchGetItem"]
    shard = shard_of(store.create(task_at()).id, 4)
    assert occupied(range(4)) == {shard}
    assert [request.action for request in sent] == ["BatchGetItem"]
    assert occupied(range(4)) == {shard}
    assert [request.action for request in sent] == ["BatchGetItem"], "of the other three"
    assert occupied([3]) == {3}
    assert sent == []
    store.create_many([task_at(), task_at()])
    assert occupied(range(4)) == set(range(4)), "whoever puts many names all shards"
    assert occupied(range(4)) == set(range(4))
    assert sent == []
    later_ms = NOON_MS + 5 * MINUTE_MS
    assert occupied(range(4), later_ms - 500) == set(range(4)), "it is not over yet"
    assert occupied(range(4), later_ms) == set()


def test_drained_bucket_is_closed_when_it_is_long_over(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    task = store.create(task_at())
    queue, shard = faulty_queue.queue, shard_of(task.id, 4)

    def named() -> list[int]:
        slot = queue._indexes.schedule.directory(shard)
        rows: list[int] = faulty_queue.run(_listed(queue, queue._indexes.schedule.table, slot))
        return rows

    def look() -> None:
        until_ms = clock.now_ms() + 1
        faulty_queue.run(queue.due(shard, since_ms=None, until_ms=until_ms, limit=10, resume=None))

    assert named() == [NOON_MS]
    clock.tick(11 * 60)
    look()
    assert named() == [NOON_MS], "it still holds a hint"
    faulty_queue.run(queue.forget_hint(hint_of(task, NOON_MS)))
    faulty_queue.run(queue.flush())
    look()
    assert named() == []


def past_level_0(queue: Queue) -> None:
    """From now on rows of this day have a partition of their own."""
    (day,) = queue.queue._indexes.all.path(1, NOON_MS)
    queue.run(queue.queue._requester.write(rows.batches(day.names)))


def completed(task: Task) -> Task:
    return replace(task, state=TaskState.COMPLETED, due_at_ms=None)


DAYS_LATER_S = 2 * 24 * 3600


def test_open_bucket_is_closed_by_the_sweep(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    past_level_0(faulty_queue)
    task, queue = store.create(task_at()), faulty_queue.queue
    faulty_queue.run(queue.forget_open(completed(task)))
    faulty_queue.run(queue.flush())
    open_rows = _listed(queue, queue._indexes.open.table, "open")
    assert len(faulty_queue.run(open_rows)) == 2, "both ends of the day"
    clock.tick(DAYS_LATER_S)
    faulty_queue.run(queue.sweep_overdue(now_ms=clock.now_ms()))
    assert faulty_queue.run(_listed(queue, queue._indexes.open.table, "open")) == []


def test_row_that_comes_while_its_open_bucket_is_closed_stays_listed(
    client: Client, settings: Settings, faulty_queue: Queue, clock: FakeClock
) -> None:
    """A task of the past is created between the look that finds its bucket empty and the close."""
    past_level_0(faulty_queue)
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)
    first = store.create(task_at())
    queue, transport = faulty_queue.queue, faulty_queue.transport
    faulty_queue.run(queue.forget_open(completed(first)))
    faulty_queue.run(queue.flush())
    clock.tick(DAYS_LATER_S)
    late = task_at(first.send_ts_ms, now_ms=clock.now_ms())

    async def create() -> None:
        store.create(late)

    transport.before = {"DeleteRequest": create}
    faulty_queue.run(queue.sweep_overdue(now_ms=clock.now_ms()))
    assert not transport.before, "the bucket was being closed"
    unfinished = TaskFilter(states=frozenset({TaskState.SCHEDULED}))
    assert [task.id for task in store.list(unfinished).tasks] == [late.id]


def test_bucket_that_is_closed_before_its_new_row_is_named_again_behind_it(
    store: AlternatorTaskStore, faulty: FaultyWire, faulty_queue: Queue, clock: FakeClock
) -> None:
    """The close comes between the names and the row, and sees neither row nor creator."""
    past_level_0(faulty_queue)
    first, queue = store.create(task_at()), faulty_queue.queue
    faulty_queue.run(queue.forget_open(completed(first)))
    faulty_queue.run(queue.flush())
    clock.tick(DAYS_LATER_S)
    closed: list[int] = []

    def close() -> None:
        faulty_queue.run(queue.sweep_overdue(now_ms=clock.now_ms()))
        closed.extend(faulty_queue.run(_listed(queue, queue._indexes.open.table, "open")))

    def wait_for_the_rows() -> None:
        faulty.before["BatchWriteItem"] = close

    faulty.before["BatchWriteItem"] = wait_for_the_rows
    late = store.create(task_at(first.send_ts_ms, now_ms=clock.now_ms()))
    assert not faulty.before, "it was closed"
    assert closed == []
    unfinished = TaskFilter(states=frozenset({TaskState.SCHEDULED}))
    assert [task.id for task in store.list(unfinished).tasks] == [late.id]


def test_row_without_a_task_is_deleted_at_the_second_look(
    store: AlternatorTaskStore, faulty: FaultyWire, faulty_queue: Queue, clock: FakeClock
) -> None:
    """A create can be under way even if its time is long past."""
    task = task_at(NOON_MS - 5 * MINUTE_MS)
    faulty.lose("PutItem", "before", outcome.failure("ValidationException", "sorry", 400))
    with pytest.raises(SchedulerError):
        store.create(task)
    sweep = faulty_queue.queue.sweep_overdue
    assert faulty_queue.run(sweep(now_ms=NOON_MS)) == 0
    clock.tick(61)
    assert faulty_queue.run(sweep(now_ms=NOON_MS + 61_000)) == 2
    assert faulty_queue.run(sweep(now_ms=NOON_MS + 61_000)) == 0


def test_rows_of_a_create_that_lost_against_another_are_not_shown_and_swept(
    store: AlternatorTaskStore, faulty_queue: Queue
) -> None:
    """Both named one id and different times; their rows stand at both."""
    task = store.create(task_at(NOON_MS + MINUTE_MS))
    earlier = replace(task, send_ts_ms=NOON_MS - MINUTE_MS, due_at_ms=NOON_MS, token=IDS())
    with pytest.raises(TaskExists):
        store.create(earlier)
    assert list(store.list(TaskFilter()).tasks) == [task]
    sweep = faulty_queue.queue.sweep_overdue
    assert faulty_queue.run(sweep(now_ms=NOON_MS + 30_000)) == 2
    assert faulty_queue.run(sweep(now_ms=NOON_MS + 30_000)) == 0
    assert list(store.list(TaskFilter()).tasks) == [task]


def test_slow_sweep_deletes_rows_of_tombstones(
    store: AlternatorTaskStore, faulty: FaultyWire, faulty_queue: Queue
) -> None:
    task = store.create(task_at())
    for _ in range(1000):
        faulty.lose("BatchWriteItem", "before")
    store.delete(task.id, now_ms=NOON_MS, token=IDS())
    assert faulty_queue.run(faulty_queue.queue.sweep_some(10_000, now_ms=NOON_MS)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"state": {"S": "paused"}},
        {"state": {"S": "running"}},
        {"state": {"S": "running"}, "claim": {"S": '["c","p",1,"more"]'}},
        {"state": {"S": "running"}, "claim": {"S": "c"}},
        {"state": {"S": "completed"}, "attempts": {"S": '[[1,"p",1,2,"postponed",null]]'}},
        {"state": {"S": "completed"}, "attempts": {"L": []}},
    ],
)
def test_record_of_a_newer_version_is_not_claimed(
    store: AlternatorTaskStore,
    raw_client: "DynamoDBClient",
    settings: Settings,
    faulty_queue: Queue,
    changed: Any,
) -> None:
    task = store.create(task_at())
    newer: Any = requests.encode_task(task) | changed
    table = f"{settings.table_prefix}tasks"
    raw_client.put_item(TableName=table, Item=newer)
    with pytest.raises(UnreadableTask):
        faulty_queue.claim(task)
    assert raw_client.get_item(TableName=table, Key={"id": {"S": task.id}})["Item"] == newer
    assert faulty_queue.run(faulty_queue.queue.get([task.id])) == {task.id: None}
    faulty_queue.run(faulty_queue.queue.sweep_some(10_000, now_ms=NOON_MS))
    faulty_queue.run(faulty_queue.queue.sweep_overdue(now_ms=NOON_MS + 2 * MINUTE_MS))
    assert raw_client.get_item(TableName=table, Key={"id": {"S": task.id}})["Item"] == newer


def test_slow_sweep_looks_at_a_directory_row_once(
    store: AlternatorTaskStore, faulty_queue: Queue, clock: FakeClock
) -> None:
    """Many tasks lie in a bucket; one that is named nowhere is named for all of them."""
    past_level_0(faulty_queue)
    tasks = [store.create(task_at(NOON_MS + n)) for n in range(130)]
    queue, sent = faulty_queue.queue, faulty_queue.transport.sent
    names = {row for task in tasks for row in queue._indexes.names(task)}
    assert len(names) == 1 + 4 + 2 * 2, "of the shards, their bucket, and a day in two kinds"
    faulty_queue.run(queue._requester.write(rows.batches(names, delete=True)))
    sent.clear()
    assert faulty_queue.run(queue.sweep_some(10_000, now_ms=NOON_MS)) == len(names)
    asked = Counter(
        (table, key["slot"]["S"], key["at"]["S"])
        for request in sent
        if request.action == "BatchGetItem"
        for table, wanted in request.body["RequestItems"].items()
        for key in wanted["Keys"]
    )
    assert set(asked.values()) == {1}
    assert {row[:3] for row in names} <= set(asked)
    clock.tick(601)
    assert faulty_queue.run(queue.sweep_some(10_000, now_ms=NOON_MS)) == 0


async def _listed(queue: AlternatorTaskQueue, table: str, slot: str) -> list[int]:
    found = queue._requester.items(requests.query(table, "slot", slot))
    return [rows.time_of(row["at"]["S"]) async for row in found]


def test_condition_failures_carry_what_stands_there(
    store: AlternatorTaskStore, settings: Settings, faulty_queue: Queue
) -> None:
    task = store.create(task_at())
    request = requests.create(f"{settings.table_prefix}tasks", task)
    with pytest.raises(ConditionFailed) as error:
        faulty_queue.run(faulty_queue.real.send(request, key=task.id, attempt=0, timeout_s=5))
    assert requests.decode_task(error.value.item or {}) == task


def test_transport_names_what_went_wrong(
    client: Client, settings: Settings, clock: FakeClock
) -> None:
    async def ask(request: Request) -> None:
        transport = Transport.open(settings, clock)
        try:
            await transport.send(request, key=None, attempt=0, timeout_s=5)
        finally:
            await transport.close()

    def send(request: Request) -> None:
        asyncio.run(ask(request))

    with pytest.raises(StoreMismatch):
        send(requests.get("no_such_table", "x"))
    with pytest.raises(SchedulerError, match="refused a request"):
        send(Request("Query", {"TableName": f"{settings.table_prefix}tasks", "Limit": -1}))
    with pytest.raises(SchedulerError, match="UnknownOperation"):
        send(Request("NoSuchOperation", {}))


def test_dead_node_is_unanswered_and_the_next_one_is_asked(
    engine: Engine, clock: FakeClock
) -> None:
    async def ask(nodes: Front) -> tuple[int, int]:
        answers, failures = 0, 0
        both = Settings(endpoints=(nodes.url(), "http://127.0.0.1:9"))
        transport = Transport.open(both, clock)
        request = Request("ListTables", {})
        for attempt in range(40):
            try:
                await transport.send(
                    request, key=f"k{attempt // 2}", attempt=attempt % 2, timeout_s=5
                )
                answers += 1
            except Unanswered:
                failures += 1
        await transport.close()
        return answers, failures

    with front(engine.settings, HOSTS[0]) as nodes:
        nodes.listing = (200, b"[]")
        assert asyncio.run(ask(nodes)) == (39, 1), "it is asked once, and then passed over"


# Keys


def test_time_keys_sort_as_text_from_year_1_to_9999() -> None:
    times = [rows.YEAR_ONE_MS, -1, 0, NOON_MS, 253_402_300_799_999]
    keys = [rows.time_key(ms) for ms in times]
    assert keys == sorted(keys)
    assert {len(key) for key in keys} == {15}
    assert [rows.time_of(key) for key in keys] == times


def test_a_bucket_is_named_once_while_it_lasts() -> None:
    indexes, named = Indexes("", 4), Named()
    task = indexes.placed(task_at(NOON_MS + MINUTE_MS), 1)
    hint_bucket = indexes.hint_bucket(task)
    assert not hint_bucket.is_over(NOON_MS + MINUTE_MS)
    named.add([hint_bucket])
    assert hint_bucket in named
    assert hint_bucket.is_over(NOON_MS + 5 * MINUTE_MS), "others may close it"
    assert [bucket in named for bucket in hint_bucket.of_all_shards()].count(True) == 1


def test_batches_name_no_key_twice() -> None:
    indexes = Indexes("", 4)
    named = indexes.rows(task_at()) * 2
    named += [row for _ in range(20) for row in indexes.rows(task_at())]
    sizes = [sum(map(len, batch.body["RequestItems"].values())) for batch in rows.batches(named)]
    assert sizes == [25, 25, 13]
