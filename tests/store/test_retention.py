"""The end of tasks: after their days they are gone with all that led to them, and nothing else is.

On tables in memory. Between any two requests a sweeper can die, another one can be at work, and
clients can create, run again and delete.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from chalicelib.errors import TaskNotFound
from chalicelib.store.alternator import earlier, outcome, requests
from chalicelib.store.alternator.closing import Closing
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.listing import Listing
from chalicelib.store.alternator.outcome import Unanswered
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.progress import PARTITION, Round, rounds_of
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.records import Records
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import NO_PRESSURE, Pressure, TaskFilter
from chalicelib.task import TOMBSTONE_S, Task, TaskState
from tests.support import profile
from tests.support.fakes import NOON_MS, FakeClock, Ids, new_task
from tests.support.virtual_store import Tables

SHARDS = 4
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OLD_MS = NOON_MS - 40 * DAY_MS
DAYS = 30
FAR_S = 1e12
REST_S = 601


class Died(BaseException):
    """As if the process had been killed."""


class HookedWire:
    """Answers from tables. before: called before each request. after: behind each."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.sent: list[Request] = []
        self.before: Callable[[Request], Awaitable[None]] | None = None
        self.after: Callable[[Request], Awaitable[None]] | None = None

    async def send(self, request: Request, **how: Any) -> JsonObject:
        profile.check(request.action, request.body)
        self.sent.append(request)
        if self.before is not None:
            await self.before(request)
        status, answer = self.tables.answer(request.action, request.body)
        if self.after is not None:
            await self.after(request)
        if status == 400:
            raise refusal(answer)
        return answer

    def pressure(self) -> Pressure:
        return NO_PRESSURE

    async def close(self) -> None:
        """There is nothing to close."""


def refusal(answer: JsonObject) -> Exception:
    code = answer["__type"].partition("#")[2]
    return outcome.failure(code, answer["message"], 400, answer.get("Item"))


class Kept:
    """A store, its clients, and any number of sweepers."""

    def __init__(self) -> None:
        self.tables, self.clock, self.ids = Tables(), FakeClock(), Ids(1)
        self.indexes = Indexes("", SHARDS)
        self.wire = HookedWire(self.tables)
        requester = Requester(self.wire, self.clock, rng=Random(1), sleep=self.clock.sleep)
        self.put = IndexRows(requester, self.indexes, self.clock, Random(1))
        for density in (self.put._all, self.put._failed):
            density._rows = (3, 2, 2)
        self.records = Records(requester, self.put, Parallel(4), "tasks")
        self.listing = Listing(requester, self.indexes, Parallel(4), "tasks", self.clock)

    def sweeper(self, days: int = DAYS) -> AlternatorTaskQueue:
        wire: Any = HookedWire(self.tables)
        queue = AlternatorTaskQueue(
            wire, self.clock, shards=SHARDS, retention_days=days, rng=Random(2)
        )
        queue._requester._sleep = self.clock.sleep
        return queue

    async def round(self, queue: AlternatorTaskQueue) -> int:
        """A whole one, of each pass."""
        self.clock.tick(REST_S)
        return await queue.sweep_some(10**6, now_ms=self.clock.now_ms())

    async def settled(self, *queues: AlternatorTaskQueue, rounds: int = 6) -> None:
        for queue in queues:
            for _ in range(rounds):
                await queue.sweep_overdue(now_ms=self.clock.now_ms())
                await self.round(queue)

    async def create(self, send_ts_ms: int, created_ms: int = OLD_MS) -> Task:
        made = new_task(self.ids, send_ts_ms=send_ts_ms, now_ms=created_ms)
        return await self.records.create(made)

    async def finished(
        self, send_ts_ms: int, finished_ms: int, state: TaskState = TaskState.COMPLETED
    ) -> Task:
        """With the rows that a processor leaves."""
        task = await self.create(send_ts_ms)
        held = task.claimed(now_ms=finished_ms, claim=self.ids(), processor="p")
        if state is TaskState.FAILED:
            done = await self.put.put_failed(held.failed("no", now_ms=finished_ms), FAR_S)
        else:
            done = held.completed("x", now_ms=finished_ms)
        self.tables.put("tasks", requests.encode_task(done))
        for row in [*self.indexes.obsolete(done), self.indexes.hint_row(task)]:
            self.tables.remove(row.table, row.key)
        return done

    def ids_left(self) -> set[str]:
        return {task.id for task in self.tables.tasks()}

    def stored(self) -> set[tuple[str, str, str]]:
        """Every row, names too."""
        items = self.tables._items
        return {
            (table, slot, at)
            for table in ("schedule", "timeline")
            for slot, found in items.get(table, {}).items()
            for at in found
        }

    def expect_in_order(self) -> None:
        """Each task has its rows, they can be found, and there are no others."""
        needed = self.expect_all_found()
        assert {row for row in self.stored() if "#" in row[2]} <= needed, "surplus"

    def expect_all_found(self) -> set[tuple[str, str, str]]:
        """Each task has its rows, and they can be found. Returns them."""
        needed, names = set[tuple[str, str, str]](), set[tuple[str, str, str]]()
        for task in self.tables.tasks():
            needed |= {row[:3] for row in self.indexes.rows(task)}
            names |= {row[:3] for row in self.indexes.names(task)}
        stored = self.stored()
        assert needed <= stored, "missing"
        assert names <= stored, "unnamed"
        return needed

    def buckets(self, kind: str) -> set[str]:
        """The partitions of a kind that hold anything, below its root."""
        return {slot for _, slot, _ in self.stored() if slot.startswith(f"{kind}/")}


async def filled(kept: Kept) -> set[str]:
    """Of everything something. Returns the ids that are to stay."""
    lately_ms, stay = NOON_MS - 3_600_000, list[Task]()
    for n in range(40):
        await kept.finished(OLD_MS + n * 1_000, OLD_MS + n * 1_000)
    for n in range(10):
        await kept.finished(OLD_MS + n * 1_000, OLD_MS + n * 2_000, TaskState.FAILED)
    stay += [await kept.finished(OLD_MS + n, lately_ms) for n in range(3)]
    stay += [await kept.finished(OLD_MS + n, lately_ms, TaskState.FAILED) for n in range(3)]
    stay += [await kept.finished(lately_ms, lately_ms + 9)]
    stay += [await kept.create(OLD_MS + 7), await kept.create(NOON_MS + DAY_MS)]
    old, young = await kept.create(OLD_MS), await kept.create(NOON_MS)
    await kept.records.delete(old.id, now_ms=NOON_MS - TOMBSTONE_S * 1000 - 1, token=kept.ids())
    await kept.records.delete(young.id, now_ms=NOON_MS - 1_000, token=kept.ids())
    again = await kept.finished(OLD_MS, OLD_MS + 9, TaskState.FAILED)
    stay += [await kept.records.retry(again.id, now_ms=NOON_MS, token=kept.ids())]
    return {task.id for task in stay} | {young.id}


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def started() -> None:
        await main()

    asyncio.run(started())


def test_exactly_what_is_to_stay_is_left() -> None:
    """By the time at which tasks finished, whatever their `send_ts`."""

    async def main() -> None:
        kept = Kept()
        stay = await filled(kept)
        await kept.settled(kept.sweeper())
        assert kept.ids_left() == stay
        kept.expect_in_order()

    run(main)


def test_for_ever() -> None:
    async def main() -> None:
        kept = Kept()
        await filled(kept)
        before = {t.id for t in kept.tables.tasks() if t.state is not TaskState.DELETED}
        await kept.settled(kept.sweeper(days=0))
        assert before <= kept.ids_left()
        kept.expect_in_order()

    run(main)


def test_days_that_are_changed_count_from_the_next_step_on() -> None:
    """More of them in the middle of a round too: its position is behind what is old then."""

    async def main() -> None:
        kept = Kept()
        for day in range(40):
            done_ms = NOON_MS - day * DAY_MS - DAY_MS // 2
            await kept.finished(done_ms, done_ms)
        queue = kept.sweeper(days=10)
        while len(kept.ids_left()) == 40:
            await queue.sweep_some(20, now_ms=NOON_MS)
        await queue.sweep_some(200, now_ms=NOON_MS)
        await kept.settled(kept.sweeper(days=35))
        left = len(kept.ids_left())
        assert 10 <= left < 35
        await kept.settled(kept.sweeper(days=0))
        assert len(kept.ids_left()) == left
        await kept.settled(kept.sweeper(days=5))
        assert len(kept.ids_left()) == 5
        kept.expect_in_order()

    run(main)


def test_a_round_that_is_behind_what_is_old_by_now_ends() -> None:
    """The days are more than they were, or this clock is behind that of who swept before."""

    async def main() -> None:
        kept = Kept()
        for n in range(200):
            await kept.finished(OLD_MS + n * 60_000, OLD_MS + n * 60_000)
        before, after = kept.sweeper(), kept.sweeper(days=60)
        while not any(one.name == "all" and one.position for one in progress(kept)):
            await before.sweep_some(20, now_ms=NOON_MS)
            kept.clock.tick(11)
        for _ in range(3):
            await after.sweep_some(100, now_ms=NOON_MS)
        (one,) = [one for one in progress(kept) if one.name == "all"]
        assert (one.number, one.position) == (2, None)

    run(main)


def test_what_version_0_1_stored_goes_too() -> None:
    """Its records tell no place. Its rows are moved meanwhile."""

    async def main() -> None:
        kept = Kept()
        for n in range(30):
            done = await kept.finished(OLD_MS + n * HOUR_MS, OLD_MS + n * HOUR_MS)
            for row in kept.indexes.rows(done):
                kept.tables.remove(row.table, row.key)
            stored = replace(done, place=None)
            kept.tables.put("tasks", requests.encode_task(stored))
            for row in earlier.rows("timeline", stored, SHARDS, (earlier.ALL,)):
                put_earlier(kept, row)
        stay = await kept.create(NOON_MS + DAY_MS, NOON_MS)
        await kept.settled(kept.sweeper())
        assert kept.ids_left() == {stay.id}
        kept.expect_in_order()

    run(main)


def put_earlier(kept: Kept, row: Row) -> None:
    """With the names by which that version found it."""
    directory, _, hour = row.slot.partition("/")
    shard = directory.removeprefix(earlier.ALL)
    for name in (
        Row("timeline", directory, hour),
        Row("timeline", earlier.root(earlier.ALL), f"{int(shard):05d}"),
        row,
    ):
        kept.tables.put(name.table, name.item)


def test_drained_buckets_leave_the_timeline() -> None:
    async def main() -> None:
        kept = Kept()
        for n in range(60):
            await kept.finished(OLD_MS + n * 1_000, OLD_MS + n * 1_000, TaskState.FAILED)
        assert kept.buckets("all")
        assert kept.buckets("failed")
        await kept.settled(kept.sweeper())
        assert kept.ids_left() == set()
        assert {slot for _, slot, _ in kept.stored() if not slot[0].isdigit()} <= {"shards"}

    run(main)


class Killer:
    """A sweeper's process dies at its request of this number that writes; `late`: behind it."""

    def __init__(self, number: int, *, late: bool) -> None:
        self.left = number
        self.late = late

    async def before(self, request: Request) -> None:
        if not self.late:
            self._count(request)

    async def after(self, request: Request) -> None:
        if self.late:
            self._count(request)

    def _count(self, request: Request) -> None:
        if request.action in ("PutItem", "DeleteItem", "BatchWriteItem"):
            self.left -= 1
            if self.left < 0:
                raise Died


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("number", range(0, 100, 3))
def test_a_sweeper_that_dies_between_two_writes(number: int, late: bool) -> None:
    async def main() -> None:
        kept = Kept()
        stay = await filled(kept)
        dying = kept.sweeper()
        killer = Killer(number, late=late)
        wire: Any = dying._transport
        wire.before, wire.after = killer.before, killer.after
        try:
            await kept.settled(dying, rounds=3)
        except Died:
            await asyncio.sleep(0)
        wire.before = wire.after = never
        await kept.settled(kept.sweeper())
        assert kept.ids_left() == stay
        kept.expect_in_order()

    run(main)


async def never(request: Request) -> None:
    """The dead send nothing."""
    raise Died


@pytest.mark.parametrize("seed", range(20))
def test_two_sweepers_at_once(seed: int) -> None:
    async def main() -> None:
        kept, rng = Kept(), Random(seed)
        stay = await filled(kept)
        one, two = kept.sweeper(), kept.sweeper()
        is_inside = False

        async def meanwhile(request: Request) -> None:
            nonlocal is_inside
            if not is_inside and rng.random() < 0.2:
                is_inside = True
                await two.sweep_some(rng.choice([10, 100]), now_ms=kept.clock.now_ms())
                is_inside = False

        wire: Any = one._transport
        wire.before = meanwhile
        for _ in range(6):
            await one.sweep_some(rng.choice([20, 200]), now_ms=kept.clock.now_ms())
        wire.before = None
        await kept.settled(one, two)
        assert kept.ids_left() == stay
        kept.expect_in_order()

    run(main)


def test_a_task_that_is_run_again_before_it_is_deleted_stays() -> None:
    async def main() -> None:
        kept = Kept()
        failed = await kept.finished(OLD_MS, OLD_MS + 9, TaskState.FAILED)
        queue = kept.sweeper()
        queue._sweeper._passes.pop()  # The scan would put right what was taken away.

        async def retry(request: Request) -> None:
            if request.action == "DeleteItem" and request.body["TableName"] == "tasks":
                wire.before = None
                await kept.records.retry(failed.id, now_ms=NOON_MS, token=kept.ids())

        wire: Any = queue._transport
        wire.before = retry
        await kept.round(queue)
        assert wire.before is None
        assert (await kept.records.get(failed.id)).state is TaskState.SCHEDULED
        kept.expect_in_order()

    run(main)


def test_a_task_that_is_deleted_before_it_is_run_again_is_not_there() -> None:
    """The rows that were put for that run lead nowhere; the sweeps delete them."""

    async def main() -> None:
        kept = Kept()
        failed = await kept.finished(OLD_MS, OLD_MS + 9, TaskState.FAILED)

        async def sweep(request: Request) -> None:
            if request.action == "UpdateItem":
                kept.wire.before = None
                await kept.round(kept.sweeper())

        kept.wire.before = sweep
        with pytest.raises(TaskNotFound):
            await kept.records.retry(failed.id, now_ms=NOON_MS, token=kept.ids())
        assert kept.ids_left() == set()
        kept.tables.remove(
            "schedule", kept.indexes.hint_row(failed.retried(now_ms=NOON_MS, token="x")).key
        )
        await kept.settled(kept.sweeper())
        kept.expect_in_order()

    run(main)


def test_a_delete_that_is_applied_late_does_not_meet_the_next_task_of_this_id() -> None:
    """Created again under its key, so with the same token, and finished since."""

    async def main() -> None:
        kept = Kept()
        task = await kept.finished(OLD_MS, OLD_MS + 9)
        late = requests.forget("tasks", task)
        kept.tables.answer(late.action, late.body)
        assert kept.ids_left() == set()
        again = replace(task, created_ts_ms=NOON_MS)
        kept.tables.put("tasks", requests.encode_task(again))
        status, _ = kept.tables.answer(late.action, late.body)
        assert (status, kept.ids_left()) == (400, {task.id})

    run(main)


def test_a_task_that_is_created_again_while_its_rows_are_deleted() -> None:
    """At the same place. It is completed before the next round: its row in `all` is put again."""

    async def main() -> None:
        kept = Kept()
        task = await kept.finished(OLD_MS, OLD_MS + 9)
        held = new_task(kept.ids, send_ts_ms=OLD_MS, now_ms=NOON_MS)
        held = replace(held, id=task.id, place=task.place)
        held = held.claimed(now_ms=NOON_MS, claim=kept.ids(), processor="p")
        again = held.completed("x", now_ms=NOON_MS)
        queue = kept.sweeper()

        async def create(request: Request) -> None:
            if request.action == "BatchWriteItem" and not kept.ids_left():
                wire.before = None
                await kept.put.put_again([again], kept.clock.monotonic_s() + 8)
                kept.tables.put("tasks", requests.encode_task(again))

        wire: Any = queue._transport
        wire.before = create
        await queue.sweep_some(100, now_ms=NOON_MS)
        assert wire.before is None
        await kept.settled(queue)
        assert kept.ids_left() == {task.id}
        kept.expect_in_order()

    run(main)


def test_a_delete_whose_answer_is_lost_is_a_delete() -> None:
    async def main() -> None:
        kept = Kept()
        await kept.finished(OLD_MS, OLD_MS + 9)
        queue = kept.sweeper()

        async def lose(request: Request) -> None:
            if request.action == "DeleteItem":
                wire.after = None
                raise Unanswered("lost")

        wire: Any = queue._transport
        wire.after = lose
        await kept.round(queue)
        assert wire.after is None
        assert kept.ids_left() == set()
        kept.expect_in_order()

    run(main)


def test_a_tombstone_stays_for_its_day() -> None:
    async def main() -> None:
        kept = Kept()
        task = await kept.create(NOON_MS)
        await kept.records.delete(task.id, now_ms=NOON_MS, token=kept.ids())
        queue = kept.sweeper(days=0)
        kept.clock.tick(TOMBSTONE_S - REST_S - 1)
        await kept.round(queue)
        assert kept.ids_left() == {task.id}
        await kept.round(queue)
        assert kept.ids_left() == set()

    run(main)


def test_a_tombstone_stays_until_nothing_leads_to_it() -> None:
    """Whoever deleted it has died; later than its day nothing else would find these rows."""

    async def main() -> None:
        kept = Kept()
        task = await kept.create(NOON_MS + DAY_MS, NOON_MS)
        deletion = requests.delete("tasks", task.id, now_ms=NOON_MS - 2 * DAY_MS, token=kept.ids())
        kept.tables.answer(deletion.action, deletion.body)
        queue = kept.sweeper()
        await kept.round(queue)
        assert kept.ids_left() == {task.id}
        await kept.round(queue)
        assert kept.ids_left() == set()
        kept.tables.remove("schedule", kept.indexes.hint_row(task).key)
        kept.expect_in_order()

    run(main)


def test_rows_without_a_task_are_deleted_by_whoever_sees_them_a_minute_later() -> None:
    """Also where no process lives for two looks, as where there are ticks only."""

    async def main() -> None:
        kept = Kept()
        task = await kept.finished(OLD_MS, OLD_MS + 9, TaskState.FAILED)
        kept.tables.remove("tasks", {"id": {"S": task.id}})
        for seconds in (0, 59):
            kept.clock.tick(seconds)
            await kept.sweeper().sweep_some(100, now_ms=kept.clock.now_ms())
        assert {row[:3] for row in kept.indexes.rows(task)} <= kept.stored()
        kept.clock.tick(1)
        await kept.sweeper().sweep_some(100, now_ms=kept.clock.now_ms())
        kept.expect_in_order()

    run(main)


def test_a_machine_whose_clock_is_behind_makes_no_row_look_old() -> None:
    """The slow sweep goes by the earlier clock, the note by the store's."""

    async def main() -> None:
        kept = Kept()
        task = await kept.create(NOON_MS - 3_600_000, NOON_MS)
        kept.tables.remove("tasks", {"id": {"S": task.id}})
        await kept.sweeper().sweep_overdue(now_ms=NOON_MS - 600_000)
        await kept.sweeper().sweep_overdue(now_ms=NOON_MS)
        kept.tables.put("tasks", requests.encode_task(task))
        kept.expect_in_order()

    run(main)


def test_a_create_takes_the_note_of_an_orphan_away() -> None:
    """Its rows stood there without it; a minute counts from its own row on."""

    async def main() -> None:
        kept = Kept()
        task = await kept.create(NOON_MS - 3_600_000, NOON_MS)
        kept.tables.remove("tasks", {"id": {"S": task.id}})
        await kept.sweeper().sweep_overdue(now_ms=NOON_MS)
        await kept.put.put_again([task], kept.clock.monotonic_s() + 8)
        kept.clock.tick(61)
        await kept.sweeper().sweep_overdue(now_ms=kept.clock.now_ms())
        kept.tables.put("tasks", requests.encode_task(task))
        kept.expect_in_order()

    run(main)


def test_a_finished_task_that_no_row_leads_to_goes_too() -> None:
    async def main() -> None:
        kept = Kept()
        task = await kept.finished(OLD_MS, OLD_MS + 9)
        row = kept.indexes.all_row(task)
        kept.tables.remove(row.table, row.key)
        await kept.round(kept.sweeper())
        assert kept.ids_left() == set()

    run(main)


# Buckets that are closed


async def drained(kept: Kept) -> None:
    """The bucket of a day that is over and holds nothing more. Producers know it from before."""
    (day,) = kept.indexes.all.path(1, OLD_MS)
    for name in day.names:
        kept.tables.put(name.table, name.item)
    task = await kept.finished(OLD_MS, OLD_MS + 9, TaskState.FAILED)
    assert kept.indexes.place_of(task).level > 0
    for row in kept.indexes.rows(task):
        kept.tables.remove(row.table, row.key)
    kept.tables.remove("tasks", {"id": {"S": task.id}})


@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.FAILED])
def test_a_task_of_the_past_that_is_created_while_buckets_are_closed(state: TaskState) -> None:
    """Requests of the close fall between any of the create."""
    closed = [asyncio.run(create_among_closes(number, state)) for number in range(60)]
    assert sum(closed) > 30


async def create_among_closes(number: int, state: TaskState) -> bool:
    """Whether anything was closed."""
    kept, rng = Kept(), Random(number)
    await drained(kept)
    queue = kept.sweeper()
    queue._sweeper._passes.pop()  # The scan would put right what the close left.
    creating, sweeping = Turns(), Turns()
    kept.wire.before = creating.wait
    wire: Any = queue._transport
    wire.before = sweeping.wait
    create = asyncio.create_task(kept.finished(OLD_MS, NOON_MS, state))
    sweep = asyncio.create_task(queue.sweep_some(100, now_ms=NOON_MS))
    while not (create.done() and sweep.done()):
        (creating if rng.random() < 0.5 else sweeping).pass_one()
        for _ in range(8):
            await asyncio.sleep(0)
    task = await create
    await sweep
    kept.wire.before = None
    listed = await kept.listing.list(TaskFilter())
    assert [one.id for one in listed.tasks] == [task.id], number
    kept.expect_all_found()
    return any("DeleteRequest" in str(one.body) for one in wire.sent)


class Turns:
    """Requests pass one by one."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self, request: Request) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def pass_one(self) -> None:
        if self._waiting:
            self._waiting.pop(0).set_result(None)


def test_a_bucket_that_is_not_drained_any_more_stays_named_throughout() -> None:
    """It was seen a while ago: a list must not miss what came since, not even for a moment."""

    async def main() -> None:
        kept = Kept()
        await drained(kept)
        await kept.finished(OLD_MS, NOON_MS)
        buckets = kept.indexes.all.path(1, OLD_MS)
        wire: Any = HookedWire(kept.tables)
        await Closing(Requester(wire, kept.clock), kept.clock).close(buckets)
        assert {one.action for one in wire.sent} == {"Query"}

    run(main)


def test_a_bucket_whose_name_is_lost_is_named_again() -> None:
    """As by a sweeper that dies between taking the names away and its second look."""

    async def main() -> None:
        kept = Kept()
        await drained(kept)
        await kept.finished(OLD_MS, NOON_MS)
        for name in kept.indexes.all.path(1, OLD_MS)[0].names:
            kept.tables.remove(name.table, name.key)
        await kept.round(kept.sweeper())
        kept.expect_in_order()

    run(main)


# The pace, and where it goes on


async def pending(kept: Kept, count: int) -> None:
    for n in range(count):
        await kept.create(NOON_MS + DAY_MS + n, NOON_MS)


def scanned(queue: AlternatorTaskQueue) -> int:
    """How many records were looked at so far."""
    wire: Any = queue._transport
    return sum(one.body["Limit"] for one in wire.sent if one.action == "Scan")


def test_a_step_reads_no_more_than_it_may() -> None:
    async def main() -> None:
        kept = Kept()
        await pending(kept, 1_000)
        queue = kept.sweeper()
        for number in range(1, 5):
            await queue.sweep_some(200, now_ms=NOON_MS)
            assert scanned(queue) == 200 * number
        for _ in range(4):
            await queue.sweep_some(200, now_ms=NOON_MS)
        assert scanned(queue) <= 1_050, "it rests"
        kept.clock.tick(REST_S)
        await queue.sweep_some(200, now_ms=NOON_MS)
        assert scanned(queue) <= 1_250

    run(main)


@pytest.mark.parametrize("most", [100, 350, 1_000])
def test_deletions_count(most: int) -> None:
    async def main() -> None:
        kept = Kept()
        for n in range(300):
            await kept.finished(OLD_MS + n, OLD_MS + n)
        await kept.sweeper().sweep_some(most, now_ms=NOON_MS)
        deleted = 300 - len(kept.ids_left())
        assert most / 7 - 1 <= deleted <= most / 6 + 50

    run(main)


def test_empty_pages_count() -> None:
    """As after many tombstones: a step asks for no more pages than it would of full ones."""

    async def main() -> None:
        kept = Kept()
        await pending(kept, 100)
        queue = kept.sweeper()
        wire: Any = queue._transport
        answer = kept.tables.answer

        def empty(action: str, body: JsonObject) -> tuple[int, JsonObject]:
            if action != "Scan":
                return answer(action, body)
            start = {"id": {"S": f"{len(wire.sent):09d}"}}
            return 200, {"Items": [], "ScannedCount": 0, "LastEvaluatedKey": start}

        kept.tables.answer = empty  # type: ignore[method-assign]
        await queue.sweep_some(600, now_ms=NOON_MS)
        assert sum(one.action == "Scan" for one in wire.sent) <= 7

    run(main)


def test_the_next_sweeper_goes_on_where_the_last_one_stopped() -> None:
    async def main() -> None:
        kept = Kept()
        await pending(kept, 500)
        looked = 0
        for _ in range(10):
            queue = kept.sweeper()
            await queue.sweep_some(50, now_ms=NOON_MS)
            looked += scanned(queue)
        (tasks,) = [one for one in progress(kept) if one.name == "tasks"]
        assert (looked, tasks.number, tasks.rows) == (500, 1, 500)
        queue = kept.sweeper()
        await queue.sweep_some(100, now_ms=NOON_MS + 9_000)
        (tasks,) = [one for one in progress(kept) if one.name == "tasks"]
        assert (tasks.number, tasks.read, tasks.took_s) == (2, 500, 9)
        kept.clock.tick(REST_S)
        await queue.sweep_some(10**6, now_ms=NOON_MS + 700_000)
        (tasks,) = [one for one in progress(kept) if one.name == "tasks"]
        assert (tasks.number, tasks.read, tasks.took_s) == (3, 500, 0), "without its rest"
        assert (tasks.ended_ms, tasks.position) == (NOON_MS + 700_000, None)

    run(main)


def progress(kept: Kept) -> list[Round]:
    items = kept.tables._items.get("workers", {}).get(PARTITION, {}).values()
    return rounds_of(items)


def test_a_position_of_the_round_before_leaves_out_nothing() -> None:
    """Written late, by a process that was stopped."""

    async def main() -> None:
        kept = Kept()
        await pending(kept, 200)
        queue = kept.sweeper()
        await queue.sweep_some(100, now_ms=NOON_MS)
        late = next(one for one in progress(kept) if one.name == "tasks")
        await kept.settled(queue, rounds=1)
        kept.tables.put("workers", late.item)
        lost = Counter[str]()
        for task in kept.tables.tasks():
            row = kept.indexes.hint_row(task)
            kept.tables.remove(row.table, row.key)
            lost[task.id] += 1
        again = kept.sweeper()
        assert await again.sweep_some(10**6, now_ms=NOON_MS) == len(lost) == 200
        kept.expect_in_order()
        assert late.item["processor"] not in [one.item["processor"] for one in progress(kept)]

    run(main)


def test_a_walk_of_the_round_before_is_not_gone_on_with() -> None:
    """Another sweeper has ended that round meanwhile."""

    async def main() -> None:
        kept = Kept()
        late = [await kept.finished(OLD_MS + n * 1_000, NOON_MS - HOUR_MS) for n in range(60)]
        one, two = kept.sweeper(), kept.sweeper()
        for _ in range(4):
            await one.sweep_some(40, now_ms=NOON_MS)
        kept.clock.tick(31)
        await two.sweep_some(10**6, now_ms=NOON_MS)
        await one.sweep_some(40, now_ms=NOON_MS)
        walking: Any = one._sweeper._passes[0]
        begun = walking._progress._rounds["all"]
        assert (begun.number, begun.position) == (2, kept.indexes.all_row(late[begun.rows - 1]).at)
        assert 0 < begun.rows < 15

    run(main)


def test_a_position_that_is_lost_makes_work_twice() -> None:
    async def main() -> None:
        kept = Kept()
        await pending(kept, 200)
        await kept.sweeper().sweep_some(100, now_ms=NOON_MS)
        for one in progress(kept):
            kept.tables.remove("workers", one.key)
        queue = kept.sweeper()
        await queue.sweep_some(10**6, now_ms=NOON_MS)
        assert [one.read for one in progress(kept) if one.name == "tasks"] == [200]

    run(main)


def test_rows_that_cannot_be_moved_do_not_hold_up_what_is_overdue() -> None:
    async def main() -> None:
        kept = Kept()
        task = await kept.create(NOON_MS - 3_600_000, NOON_MS)
        hint = kept.indexes.hint_row(task)
        kept.tables.remove(hint.table, hint.key)
        odd = {"slot": {"S": earlier.root(earlier.ALL)}, "at": {"S": "odd"}}
        kept.tables.put("timeline", odd)
        with pytest.raises(ValueError, match="odd"):
            await kept.sweeper().sweep_overdue(now_ms=NOON_MS)
        assert kept.tables.find(hint.table, hint.key) is not None

    run(main)


def test_a_pass_that_fails_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        kept = Kept()
        queue = kept.sweeper()
        task = await kept.create(NOON_MS + DAY_MS, NOON_MS)
        hint = kept.indexes.hint_row(task)
        kept.tables.remove(hint.table, hint.key)
        kept.tables.put("timeline", {"slot": {"S": "all"}, "at": {"S": "00000000000000x#odd"}})
        with pytest.raises(ValueError, match="00000000000000x"):
            await queue.sweep_some(100, now_ms=NOON_MS)
        assert kept.tables.find(hint.table, hint.key) is not None

    run(main)


def test_completed_tasks_are_passed_over_by_the_store() -> None:
    async def main() -> None:
        kept = Kept()
        done = [await kept.finished(NOON_MS - 1_000, NOON_MS) for _ in range(9)]
        task = await kept.create(NOON_MS + 1_000)
        (sent,) = [requests.sweep("tasks", None, 100, NOON_MS - DAYS * DAY_MS)]
        profile.check(sent.action, sent.body)
        answer = kept.tables.answer(sent.action, sent.body)[1]
        assert [item["id"]["S"] for item in answer["Items"]] == [task.id]
        assert answer["ScannedCount"] == len(done) + 1
        assert not {"#payload", "#result", "#error"} & set(
            sent.body["ProjectionExpression"].split(", ")
        )

    run(main)
