"""Walks along lists while others create, run, fail, run again, delete and sweep.

On tables in memory, with changes between any two requests, pages that end early or are empty, and
buckets that are opened after a few rows. The checker knows which tasks fitted throughout a walk:
each of them must be seen once, and no task twice.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from chalicelib.store.alternator import outcome
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.listing import Listing
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.records import Records
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import NO_PRESSURE, Pressure, TaskFilter
from chalicelib.task import UNFINISHED, VISIBLE, Task, TaskState
from tests.support import profile
from tests.support.fakes import NOON_MS, FakeClock, Ids, hint_of, new_task
from tests.support.virtual_store import Tables

SHARDS = 4
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPANS_MS = (10, 600_000, HOUR_MS, 24 * HOUR_MS, 72 * HOUR_MS)
FAR_S = 1e12
CHANGES_MAX = 60
"""During one walk; or it might never end."""
STATES = sorted(VISIBLE)


@dataclass
class OddWire:
    """Answers from tables. Before each request others may act; pages are cut, or empty.

    hides: the row of this task is left out of the pages. page: so many rows in each, if it is set.
    """

    tables: Tables
    rng: Random
    clock: FakeClock
    meanwhile: Callable[[], Awaitable[None]] | None = None
    hides: str | None = None
    page: int | None = None

    async def send(self, request: Request, **how: Any) -> JsonObject:
        if self.meanwhile is not None:
            await self.meanwhile()
        self.clock.tick(self.rng.uniform(0.001, 0.02) if self.meanwhile else 0.0001)
        profile.check(request.action, request.body)
        body = request.body
        if request.action == "Query" and (odd := self._odd_page(body)):
            return odd
        status, answer = self.tables.answer(request.action, self._cut(request))
        if status == 400:
            code = answer["__type"].partition("#")[2]
            raise outcome.failure(code, answer["message"], 400, answer.get("Item"))
        if self.hides and request.action == "Query":
            answer["Items"] = [i for i in answer["Items"] if self.hides not in str(i.get("at"))]
        return answer

    def _odd_page(self, body: JsonObject) -> JsonObject | None:
        """An empty one that is not the last, as after many tombstones."""
        start = body.get("ExclusiveStartKey")
        if start is None or self.rng.random() > 0.2:
            return None
        return {"Items": [], "ScannedCount": 0, "LastEvaluatedKey": start}

    def _cut(self, request: Request) -> JsonObject:
        if request.action == "Query" and self.page:
            return request.body | {"Limit": self.page}
        if request.action != "Query" or self.rng.random() > 0.4:
            return request.body
        most = request.body.get("Limit", 1_000)
        return request.body | {"Limit": self.rng.randint(1, max(1, min(most, 8)))}

    def pressure(self) -> Pressure:
        return NO_PRESSURE

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class World:
    """A store, who walks it, and others who change it.

    walker: reads with changes meanwhile. tasks: every task as last committed, deleted ones too.
    retention_days: 0: tasks are kept for ever. pauses_s: what passes between two pages of a walk.
    """

    seed: int
    rows: Sequence[int] = (6, 4, 3)
    retention_days: int = 0
    pauses_s: Sequence[float] = (0.0, 1.0, 30.0, 3_600.0)
    tasks: dict[str, Task] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng, self.ids, self.clock = Random(self.seed), Ids(self.seed), FakeClock()
        tables = Tables()
        self.tables = tables
        self.calm = OddWire(tables, self.rng, self.clock)
        self.busy = OddWire(tables, self.rng, self.clock)
        self.indexes = Indexes("", SHARDS)
        requester = Requester(self.calm, self.clock, rng=self.rng)
        self.put = IndexRows(requester, self.indexes, self.clock, self.rng)
        self.records = Records(requester, self.put, Parallel(4), "tasks")
        wire: Any = self.calm
        days = self.retention_days
        self.queue = AlternatorTaskQueue(
            wire, self.clock, shards=SHARDS, retention_days=days, rng=self.rng
        )
        for rows in (self.put, self.queue._rows):
            for density in (rows._all, rows._failed):
                density._rows = tuple(self.rows)
        walking = Requester(self.busy, self.clock, rng=self.rng)
        self.listing = Listing(walking, self.indexes, Parallel(4), "tasks", self.clock, 40)

    async def fill(self, changes: int) -> None:
        for _ in range(changes):
            await self.change()

    async def change(self) -> None:
        """Something that others do."""
        act = self.rng.choices(
            [self.create, self.run, self.retry, self.delete, self.clean, self.sweep, self.crash],
            [6, 6, 2, 1, 2, 1, 1],
        )[0]
        await act()
        self.done[act.__name__] += 1

    async def create(self) -> None:
        now_ms = self.clock.now_ms()
        span_ms = self.rng.choice(SPANS_MS)
        send_ts_ms = now_ms + self.rng.randint(-span_ms, span_ms)
        type = self.rng.choice(["Foo", "Baz"])
        task = new_task(self.ids, send_ts_ms=send_ts_ms, now_ms=now_ms, type=type)
        self.tasks[task.id] = await self.records.create(task)

    async def run(self) -> None:
        """Claim a due task and settle it."""
        now_ms = self.clock.now_ms()
        due = [t for t in self.tasks.values() if t.is_claimable(now_ms)]
        if not due:
            return
        task = self.rng.choice(due)
        hint = hint_of(task, shards=SHARDS)
        held = await self.queue.claim(
            hint, claim=self.ids(), processor="p", now_ms=now_ms, until_s=FAR_S
        )
        assert isinstance(held, Task)
        self.tasks[task.id] = held
        if self.rng.random() < 0.2:
            return
        settled = {
            0: held.completed("x", now_ms=now_ms),
            1: held.failed("no", now_ms=now_ms),
            2: held.failed_once("no", now_ms=now_ms, jitter=self.rng.random),
        }[self.rng.randrange(3)]
        assert await self.queue.settle(held, settled, until_s=FAR_S)
        self.tasks[task.id] = settled = await self.records.get(task.id)
        if settled.state not in UNFINISHED:
            await self.queue.forget_open(settled)

    async def retry(self) -> None:
        if failed := [t for t in self.tasks.values() if t.state is TaskState.FAILED]:
            id = self.rng.choice(failed).id
            now_ms = self.clock.now_ms()
            self.tasks[id] = await self.records.retry(id, now_ms=now_ms, token=self.ids())

    async def delete(self) -> None:
        now_ms = self.clock.now_ms()
        if mine := [t for t in self.tasks.values() if t.is_deletable(now_ms)]:
            task = self.rng.choice(mine)
            await self.records.delete(task.id, now_ms=now_ms, token=self.ids())
            self.tasks[task.id] = task.deleted(now_ms=now_ms, token="")
            if self.rng.random() < 0.5:
                self.tables.remove("tasks", {"id": {"S": task.id}})  # Purged.

    async def clean(self) -> None:
        await self.queue.flush(age_s=self.rng.choice([0.0, 5.0]))

    async def sweep(self) -> None:
        now_ms = self.clock.now_ms()
        await self.queue.sweep_overdue(now_ms=now_ms)
        await self.queue.sweep_some(self.rng.choice([1, 20, 1_000]), now_ms=now_ms)
        there = {task.id for task in self.tables.tasks()}
        for task in [t for t in self.tasks.values() if t.id not in there]:
            self._expect_over(task)
            del self.tasks[task.id]
            self.done["purged" if task.state is TaskState.DELETED else "retired"] += 1

    def _expect_over(self, task: Task) -> None:
        """Of a task that is not there any more. Of tombstones any may be purged."""
        if task.state is not TaskState.DELETED:
            assert self.retention_days
            assert task.finished_ts_ms is not None
            assert task.finished_ts_ms < self.clock.now_ms() - self.retention_days * DAY_MS

    async def crash(self) -> None:
        """Rows without a record, or of a failure that was never committed."""
        now_ms = self.clock.now_ms()
        task = new_task(self.ids, send_ts_ms=now_ms - self.rng.choice(SPANS_MS), now_ms=now_ms)
        deadline_s = self.clock.monotonic_s() + 8
        if self.rng.random() < 0.5:
            await self.put.put([task], deadline_s)
        elif running := [t for t in self.tasks.values() if t.state is TaskState.RUNNING]:
            failed = self.rng.choice(running).failed("no", now_ms=now_ms)
            await self.put.put_failed(failed, deadline_s)

    async def walk(self, filter: TaskFilter) -> None:
        """To the end, with changes all the time. Raises AssertionError for what it did not see."""
        fitting = {t.id for t in self.tasks.values() if filter.accepts(t)}
        left = iter(range(CHANGES_MAX))

        async def meanwhile() -> None:
            if self.rng.random() < 0.3 and next(left, None) is not None:
                await self.change()
                accepted = {t.id for t in self.tasks.values() if filter.accepts(t)}
                fitting.intersection_update(accepted)

        self.busy.meanwhile = meanwhile
        seen: list[Task] = []
        while True:
            page = await self.listing.list(filter)
            assert len(page.tasks) <= filter.limit
            seen += page.tasks
            if page.next is None:
                break
            filter = replace(filter, after=page.next)
            self.clock.tick(self.rng.choice(self.pauses_s))
        self.busy.meanwhile = None
        expect_seen(seen, fitting, descending=filter.descending)


def expect_seen(seen: Sequence[Task], fitting: set[str], *, descending: bool) -> None:
    places = [(task.send_ts_ms, task.id) for task in seen]
    assert places == sorted(set(places), reverse=descending), "in order, none twice"
    missed = fitting - {task.id for task in seen}
    assert not missed, f"{len(missed)} of {len(fitting)} were not seen"


def filters(rng: Random) -> TaskFilter:
    now_ms = NOON_MS + rng.randint(-48, 48) * HOUR_MS
    since_ms = rng.choice([None, now_ms])
    return TaskFilter(
        states=rng.choice([None, frozenset(rng.sample(STATES, rng.randint(1, 3)))]),
        types=rng.choice([None, frozenset({"Foo"})]),
        since_ms=since_ms,
        until_ms=rng.choice([None, (since_ms or now_ms) + rng.randint(0, 48) * HOUR_MS]),
        limit=rng.choice([1, 3, 20]),
        descending=rng.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(100))
def test_a_walk_sees_what_fitted_throughout_once(seed: int) -> None:
    async def main() -> Counter[str]:
        world = World(seed)
        await world.fill(60)
        for _ in range(4):
            await world.walk(filters(world.rng))
            await world.fill(10)
        return world.done

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(60))
def test_a_walk_sees_what_retention_leaves(seed: int) -> None:
    """Days pass: tasks are deleted, and drained buckets leave every kind of the timeline."""

    async def main() -> Counter[str]:
        world = World(seed, retention_days=1, pauses_s=(0.0, 700.0, 40_000.0))
        for _ in range(6):
            await world.fill(25)
            await world.walk(filters(world.rng))
            world.clock.tick(world.rng.choice([700.0, 40_000.0, 100_000.0]))
            await world.sweep()
        for _ in range(4):
            world.clock.tick(100_000.0)
            await world.sweep()
        await world.walk(filters(world.rng))
        return world.done

    done = asyncio.run(main())
    assert done["retired"] > 0


def test_a_task_that_fails_between_two_pages_of_a_list_is_seen() -> None:
    """`failed` was read before the failure, the page of `open` is read after it."""

    async def main() -> list[str]:
        world = World(1)
        held = [await running(world, NOON_MS - 5 + n) for n in range(2)]
        asked = iter(range(100))

        async def meanwhile() -> None:
            if next(asked) == 3:
                failed = held[1].failed("no", now_ms=world.clock.now_ms())
                assert await world.queue.settle(held[1], failed, until_s=FAR_S)
                await world.queue.forget_open(failed)
                await world.queue.flush()

        world.busy.meanwhile, world.busy.page = meanwhile, 1
        states = frozenset({TaskState.RUNNING, TaskState.FAILED})
        page = await world.listing.list(TaskFilter(states=states))
        assert next(asked) > 4, "it was read in pages"
        assert [task.id for task in page.tasks] == [task.id for task in held]
        return [task.state for task in page.tasks]

    assert asyncio.run(main()) == [TaskState.RUNNING, TaskState.FAILED]


async def running(world: World, send_ts_ms: int) -> Task:
    made = new_task(world.ids, send_ts_ms=send_ts_ms, now_ms=send_ts_ms)
    task = await world.records.create(made)
    held = await world.queue.claim(
        hint_of(task, shards=SHARDS),
        claim=world.ids(),
        processor="p",
        now_ms=NOON_MS,
        until_s=FAR_S,
    )
    assert isinstance(held, Task)
    return held


@pytest.mark.parametrize("twin", range(97, 103))
def test_a_task_with_two_rows_is_shown_once(twin: int) -> None:
    """Also where one of them ends what is read together, and the other one begins the next."""

    async def main() -> list[str]:
        world = World(1, rows=(10**6,) * 3)
        made = [new_task(world.ids, send_ts_ms=NOON_MS + n) for n in range(110)]
        for task in made:
            await world.records.create(task)
        await world.put.put_again([world.indexes.placed(made[twin], 1)], FAR_S)
        world.listing._examined_max = 1_000
        page = await world.listing.list(TaskFilter(limit=200))
        assert [task.id for task in page.tasks] == [task.id for task in made]
        return [task.id for task in page.tasks]

    world_ids = asyncio.run(main())
    assert len(set(world_ids)) == 110


def test_the_checker_finds_a_row_that_is_left_out() -> None:
    async def main() -> None:
        world = World(1)
        await world.fill(60)
        lasting = next(t for t in world.tasks.values() if t.state is TaskState.COMPLETED)
        world.busy.hides = lasting.id
        world.change = nothing  # type: ignore[method-assign]
        await world.walk(TaskFilter())

    with pytest.raises(AssertionError, match=r"1 of \d+ were not seen"):
        asyncio.run(main())


async def nothing() -> None:
    """Others rest."""


def test_the_world_reaches_every_level_and_state() -> None:
    async def main() -> tuple[set[int], set[TaskState]]:
        levels, states = set[int](), set[TaskState]()
        for seed in range(20):
            world = World(seed)
            await world.fill(150)
            levels |= {world.indexes.place_of(t).level for t in world.tasks.values()}
            states |= {t.state for t in world.tasks.values()}
        return levels, states

    levels, states = asyncio.run(main())
    assert levels == {0, 1, 2, 3}
    assert states == set(TaskState)
