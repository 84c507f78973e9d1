"""How many requests to the store a list takes, whatever else there is."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

import pytest

from bench.seed import Filling
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.places import Indexes, Place
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.timeline import DEEPEST
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import Transport
from chalicelib.store.contract import Position, TaskFilter
from chalicelib.task import VISIBLE, Task, TaskState
from tests.support.engine import Engine
from tests.support.fakes import NOON_MS, FakeClock, Ids, NoLot, new_task
from tests.support.profile import CheckedTransport
from tests.support.wires import FaultyWire

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FAILED = frozenset({TaskState.FAILED})
SCHEDULED = frozenset({TaskState.SCHEDULED})
RUNNING = frozenset({TaskState.RUNNING})

pytestmark = pytest.mark.wall_clock


def settled(task: Task, ids: Ids, state: TaskState = TaskState.COMPLETED) -> Task:
    assert task.due_at_ms is not None
    held = task.claimed(now_ms=task.due_at_ms, claim=ids(), processor="p")
    if state is TaskState.RUNNING:
        return held
    if state is TaskState.FAILED:
        return held.failed("no", now_ms=task.due_at_ms + 7)
    return held.completed("Baz 1", now_ms=task.due_at_ms + 7)


@dataclass
class Site:
    """A store whose requests are counted, and what was put into it."""

    settings: Settings
    store: AlternatorTaskStore
    wire: FaultyWire
    filling: Filling
    ids: Ids
    tasks: list[Task]

    def tasks_at(self, times_ms: Iterable[int], type: str = "Baz") -> list[Task]:
        """Created at their time."""
        return [new_task(self.ids, send_ts_ms=at, now_ms=at, type=type) for at in times_ms]

    def add(self, tasks: Sequence[Task]) -> None:
        """As creates, and processors, would have put them."""
        placed = [self.filling.placed(task) for task in tasks]
        asyncio.run(self._write(self._puts(placed)))
        self.tasks += tasks

    def put(self, rows: Iterable[Row]) -> None:
        asyncio.run(self._write((row.table, row.item) for row in rows))

    async def _write(self, puts: Iterator[tuple[str, JsonObject]]) -> None:
        transport = Transport.open(self.settings, SystemClock())

        async def write() -> None:
            while batch := list(itertools.islice(puts, 25)):
                tables: dict[str, list[JsonObject]] = {}
                for table, item in batch:
                    tables.setdefault(table, []).append({"PutRequest": {"Item": item}})
                request = Request("BatchWriteItem", {"RequestItems": tables})
                answer = await transport.send(request, key=None, attempt=0, timeout_s=30.0)
                assert not answer.get("UnprocessedItems")

        await asyncio.gather(*(write() for _ in range(4)))
        await transport.close()

    def _puts(self, placed: Sequence[Task]) -> Iterator[tuple[str, JsonObject]]:
        """Each row once."""
        indexes = Indexes(self.settings.table_prefix, self.settings.shards)
        buckets = dict.fromkeys(bucket for task in placed for bucket in indexes.buckets(task))
        put = [row for bucket in buckets for row in bucket.names]
        put += [row for task in placed for row in indexes.rows(task)] + [
            row for bucket in self.filling.opened for row in bucket.names
        ]
        yield from ((row.table, row.item) for row in {row[:3]: row for row in put}.values())
        yield from ((f"{indexes.table[:-8]}tasks", requests.encode_task(task)) for task in placed)

    @contextmanager
    def at_most(self, most: int) -> Iterator[None]:
        with self.wire.meanwhile() as sent:
            yield
        assert len(sent) <= most, Counter(sent)

    def shown(self, filter: TaskFilter) -> list[Task]:
        """One page; it must be the first of what fits."""
        page = self.store.list(filter)
        fitting = [task for task in filter_of(self.tasks, filter) if is_ahead(filter, task)]
        fitting.sort(key=lambda task: (task.send_ts_ms, task.id), reverse=filter.descending)
        assert list(page.tasks) == fitting[: len(page.tasks)]
        assert len(page.tasks) == min(len(fitting), filter.limit)
        assert (page.next is None) == (len(fitting) <= filter.limit)
        return list(page.tasks)


def filter_of(tasks: Sequence[Task], filter: TaskFilter) -> list[Task]:
    return [task for task in tasks if filter.accepts(task)]


def is_ahead(filter: TaskFilter, task: Task) -> bool:
    return filter.is_ahead(Position(task.send_ts_ms, task.id))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def site(
    settings: Settings,
    thread: LoopThread,
    wire: CheckedTransport,
    client: Client,
    clock: FakeClock,
) -> Site:
    settings = replace(settings, shards=16)
    counting = FaultyWire(wire)
    counted = Client(thread, Requester(counting, clock))
    prefix = settings.table_prefix
    store = AlternatorTaskStore(counted, clock, prefix=prefix, shards=16, rng=NoLot())
    filling = Filling(Indexes(settings.table_prefix, 16))
    store.list(TaskFilter())  # Once a minute a process looks for rows of the version before.
    store.list(TaskFilter(states=SCHEDULED))
    return Site(settings, store, counting, filling, Ids(9), [])


@pytest.mark.parametrize("descending", [False, True])
def test_a_list_of_4000_tasks_20_s_apart(site: Site, descending: bool) -> None:
    site.add(site.tasks_at(NOON_MS + number * 20_000 for number in range(4_000)))
    filter = TaskFilter(descending=descending)
    with site.at_most(6):
        first = site.shown(filter)
    middle = site.tasks[2_000]
    with site.at_most(6):
        site.shown(replace(filter, since_ms=middle.send_ts_ms))
    with site.at_most(6):
        site.shown(replace(filter, until_ms=middle.send_ts_ms))
    after = site.store.list(filter).next
    with site.at_most(6):
        second = site.shown(replace(filter, after=after))
    assert not {task.id for task in first} & {task.id for task in second}


@pytest.mark.parametrize("descending", [False, True])
def test_a_list_of_one_task_an_hour(site: Site, descending: bool) -> None:
    site.add(site.tasks_at(NOON_MS - number * HOUR_MS for number in range(720)))
    filter = TaskFilter(descending=descending)
    with site.at_most(8):
        site.shown(filter)
    with site.at_most(40):
        assert len(site.shown(replace(filter, limit=1000))) == 720


@pytest.mark.parametrize("descending", [False, True])
def test_a_list_of_one_task_an_hour_where_a_day_has_a_partition(
    site: Site, descending: bool
) -> None:
    """As after days that were dense."""
    for number in range(31):
        site.filling.open(1, NOON_MS - number * DAY_MS)
    site.add(site.tasks_at(NOON_MS - number * HOUR_MS for number in range(720)))
    filter = TaskFilter(descending=descending)
    with site.at_most(8):
        site.shown(filter)
    with site.at_most(41):
        assert len(site.shown(replace(filter, limit=1000))) == 720


def test_what_is_due_after_dense_traffic_is_known_by_few_requests(site: Site) -> None:
    """Buckets of `open` are drained; those of the last 15 minutes are not closed yet. To tell the
    backlog, `GET /stats` may take 17 of its 20 requests."""
    minute_ms, indexes = 60_000, Indexes(site.settings.table_prefix, 16)
    for number in range(15):
        site.filling.open(DEEPEST, NOON_MS - number * minute_ms)
    tasks = site.tasks_at(NOON_MS - number * 200 for number in range(4_500))
    site.add([settled(task, site.ids) for task in tasks])
    names = {
        row
        for task in tasks
        for bucket in indexes.open.path(DEEPEST, task.send_ts_ms)
        for row in bucket.names
    }
    site.put(names)
    late = site.tasks_at([NOON_MS - 100])
    with site.at_most(17):
        assert not site.shown(TaskFilter(states=SCHEDULED, until_ms=NOON_MS + 1, limit=100))
    site.add(late)
    with site.at_most(17):
        assert site.shown(TaskFilter(states=SCHEDULED, until_ms=NOON_MS + 1, limit=100)) == late


def test_lists_among_100000_finished_tasks(site: Site, engine: Engine) -> None:
    """Of a day, with 10 failed ones, 60 pending ones, and 5 that run."""
    if not engine.is_embedded:
        pytest.skip("to write its 100,000 tasks takes a server many minutes")
    rng, failed = Random(9), TaskFilter(states=FAILED)
    with site.at_most(2):
        site.shown(failed)
    times_ms = sorted(NOON_MS - rng.randrange(DAY_MS) for _ in range(100_000))
    made = site.tasks_at(times_ms)
    rare = dict.fromkeys(rng.sample(range(100_000), 20), "Foo")
    bad = set(rng.sample(range(100_000), 10))
    history = [
        settled(
            replace(task, type=rare.get(number, "Baz")),
            site.ids,
            TaskState.FAILED if number in bad else TaskState.COMPLETED,
        )
        for number, task in enumerate(made)
    ]
    running = [settled(task, site.ids, TaskState.RUNNING) for task in made[-5:]]
    site.add(history[:-5] + running)
    site.add(site.tasks_at(NOON_MS + rng.randrange(1, DAY_MS) for _ in range(60)))
    for descending in (False, True):
        order = TaskFilter(descending=descending)
        with site.at_most(6):
            site.shown(order)
        with site.at_most(6):
            assert len(site.shown(replace(order, states=FAILED))) >= 9
        with site.at_most(8):
            assert len(site.shown(replace(order, states=SCHEDULED, limit=100))) == 60
        with site.at_most(8):
            assert len(site.shown(replace(order, states=RUNNING))) == 5
        with site.at_most(10):
            site.shown(replace(order, states=FAILED | SCHEDULED | RUNNING, limit=100))
        until = site.tasks[50_000].send_ts_ms
        mix = replace(order, states=FAILED, types=frozenset({"Foo"}), until_ms=until)
        with site.at_most(8):
            site.shown(mix)


def test_a_rare_type_is_found_without_reading_tasks_of_others(site: Site) -> None:
    """The rows tell the type: the store passes over those of others."""
    rng = Random(3)
    made = site.tasks_at(NOON_MS - number * 1_000 for number in range(10_000))
    rare = set(rng.sample(range(10_000), 7))
    site.add(
        [
            settled(replace(task, type="Foo" if number in rare else "Baz"), site.ids)
            for number, task in enumerate(made)
        ]
    )
    for descending in (False, True):
        filter = TaskFilter(types=frozenset({"Foo"}), descending=descending)
        with site.wire.meanwhile() as sent:
            assert len(site.shown(filter)) == 7
        assert sent.count("BatchGetItem") == 1, "its own 7"
        assert len(sent) < 40, Counter(sent)


@pytest.mark.parametrize("state", [None, *sorted(VISIBLE)])
def test_a_walk_with_a_type_comes_to_its_end_in_pages(site: Site, state: TaskState | None) -> None:
    """A page is cut short after much that did not fit, and the next one goes on from there."""
    site.store._listing._examined_max = 40
    made = site.tasks_at(NOON_MS - number * 1_000 for number in range(5_000))
    typed = [replace(t, type="Foo" if n % 1_001 == 7 else "Baz") for n, t in enumerate(made)]
    others = [TaskState.RUNNING, TaskState.COMPLETED, TaskState.FAILED]
    site.add([settled(t, site.ids, others[n % 4]) if n % 4 < 3 else t for n, t in enumerate(typed)])
    states = None if state is None else frozenset({state})
    filter = TaskFilter(states=states, types=frozenset({"Foo"}))
    found, pages = list[Task](), 0
    while True:
        page = site.store.list(filter)
        found += page.tasks
        pages += 1
        if page.next is None:
            break
        filter = replace(filter, after=page.next)
    assert found == sorted(filter_of(site.tasks, filter), key=lambda task: task.send_ts_ms)
    assert found
    assert pages > 1 or state is not None


def written(sent: Sequence[Request]) -> int:
    """Rows in these BatchWriteItems."""
    return sum(
        len(puts)
        for request in sent
        if request.action == "BatchWriteItem"
        for puts in request.body["RequestItems"].values()
    )


def test_a_batch_in_many_hours_costs_as_one_in_one_hour_once_they_are_known(site: Site) -> None:
    seen: list[Request] = []
    real = site.wire.send

    async def send(request: Request, **how: object) -> JsonObject:
        seen.append(request)
        return await real(request, **how)

    site.wire.send = send  # type: ignore[method-assign]

    def cost(times_ms: Iterable[int]) -> tuple[int, int]:
        del seen[:]
        now_ms = NOON_MS
        tasks = [new_task(site.ids, send_ts_ms=at, now_ms=now_ms) for at in times_ms]
        assert all(isinstance(task, Task) for task in site.store.create_many(tasks))
        return len(seen), written(seen)

    apart = [NOON_MS + number * HOUR_MS for number in range(100)]
    together = [NOON_MS + number for number in range(100)]
    first = cost(apart)
    cost(together)
    one_hour, many_hours = cost(together), cost(apart)
    assert many_hours[0] <= 1.1 * one_hour[0]
    assert many_hours[1] <= 1.1 * one_hour[1]
    assert one_hour == (1 + 12 + 100, 300)
    assert first[0] > 2 * many_hours[0] / 3, "the first time, their hours are named"


def test_a_create_takes_two_requests(site: Site) -> None:
    site.store.create(new_task(site.ids))
    with site.wire.meanwhile() as sent:
        for number in range(500):
            site.store.create(new_task(site.ids, send_ts_ms=NOON_MS + number))
    assert len(sent) <= 500 * 2.05, Counter(sent)


def level_of(store: AlternatorTaskStore, task: Task) -> int:
    return Place.of(store.get(task.id).place or "").level


def test_rows_are_put_deeper_where_they_are_dense(site: Site) -> None:
    """By lot: a partition holds about as many as it should, and all are listed."""
    for density in (site.store._rows._all, site.store._rows._failed):
        density._rows, density._rng = (40, 40, 40), Random(5)
    for start in range(0, 600, 100):
        tasks = site.tasks_at(NOON_MS + n * 1_000 for n in range(start, start + 100))
        site.tasks += tasks
        for task in tasks:
            site.store.create(task)
    levels = Counter(
        int((site.store.get(task.id).place or "").split("/")[1]) for task in site.tasks
    )
    assert set(levels) == {0, 1, 2, 3}
    assert max(levels[0], levels[1]) < 200
    for descending in (False, True):
        filter, found = TaskFilter(descending=descending, limit=37), list[str]()
        while True:
            page = site.store.list(filter)
            found += [task.id for task in page.tasks]
            if page.next is None:
                break
            filter = replace(filter, after=page.next)
        expected = [task.id for task in sorted(site.tasks, key=lambda t: (t.send_ts_ms, t.id))]
        assert found == (expected[::-1] if descending else expected)


def test_another_process_learns_that_a_bucket_is_opened(
    site: Site, client: Client, clock: FakeClock
) -> None:
    prefix = site.settings.table_prefix
    other = AlternatorTaskStore(client, clock, prefix=prefix, shards=16)
    assert level_of(other, other.create(new_task(site.ids))) == 0
    (day,) = Indexes(prefix, 16).all.path(1, NOON_MS)
    for name in day.names:
        client.decide(requests.put_row(name.table, name.item))
    assert level_of(other, other.create(new_task(site.ids))) == 0, "it has just looked"
    clock.tick(11)
    assert level_of(other, other.create(new_task(site.ids))) == 1


def test_the_bucket_behind_a_dense_one_is_opened_soon(site: Site) -> None:
    density = site.store._rows._all
    density._rng = Random(2)

    def rows_until_opened(time_ms: int) -> int:
        for rows in itertools.count():
            if density.level(time_ms):
                return rows
            density.drawn(0, time_ms)
        raise AssertionError

    assert rows_until_opened(NOON_MS) > 50
    assert rows_until_opened(NOON_MS + DAY_MS) < 200
    assert rows_until_opened(NOON_MS + 9 * DAY_MS) > 50


@pytest.mark.parametrize("descending", [False, True])
def test_what_cannot_have_run_yet_is_not_looked_for(site: Site, descending: bool) -> None:
    """No task has failed, or runs, whose time is far ahead."""
    site.add(site.tasks_at(NOON_MS + number * DAY_MS for number in range(3)))
    later = TaskFilter(since_ms=NOON_MS + DAY_MS, descending=descending)
    with site.at_most(0):
        assert site.shown(replace(later, states=FAILED)) == []
    with site.at_most(4):
        assert len(site.shown(replace(later, states=SCHEDULED))) == 2
