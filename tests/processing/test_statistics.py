"""What a processor counts and writes agrees with the ledger of the same run."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable
from chalicelib.processing.context import Context
from chalicelib.processing.processor import Grace, Processor
from chalicelib.processing.statistics_writer import ROWS_MAX, StatisticsWriter
from chalicelib.statistics import COUNTERS, Statistics, StatisticsRow, Step, decoded
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables
from chalicelib.task import Task
from chalicelib.task_types import Run
from tests.support.fakes import (
    NOON_MS,
    FakeClock,
    Here,
    Ids,
    LoopClock,
    NoWatchdog,
    new_task,
    run_virtually,
)

DAY_MS = 86_400_000


async def ok(run: Run) -> str:
    await asyncio.sleep(0.2)
    return "ok"


async def raising(run: Run) -> str:
    raise ValueError("boom")


class Mortal(MemoryQueue):
    """Of a processor that can be killed: nothing that it asks for happens any more."""

    is_dead = False

    async def claim(self, *args: Any, **more: Any) -> Any:
        await self._live()
        return await super().claim(*args, **more)

    async def settle(self, *args: Any, **more: Any) -> bool:
        await self._live()
        return await super().settle(*args, **more)

    async def put_heartbeat(self, heartbeat: Any) -> None:
        await self._live()
        await super().put_heartbeat(heartbeat)

    async def put_statistics(self, rows: Any) -> None:
        await self._live()
        await super().put_statistics(rows)

    async def _live(self) -> None:
        if self.is_dead:
            await asyncio.Event().wait()


@dataclass
class Fleet:
    """Tasks in memory, processors on them, and all that they recorded."""

    tables: Tables = field(default_factory=Tables)
    events: list[tuple[str, Task | None, dict[str, Any]]] = field(default_factory=list)

    def record(self, event: str, task: Task | None, **more: Any) -> None:
        self.events.append((event, task, more))

    def processor(self, ids: Ids) -> Processor:
        async def here(run: Run) -> Here:
            return Here({"ok": ok, "raising": raising}[run.task.type], run)

        context = Context(
            id=ids(),
            queue=Mortal(self.tables, shards=4),
            clock=LoopClock(),
            rng=Random(3),
            settings=Settings(shards=4),
            emit=lambda line: None,
            handlers={"ok": ok, "raising": raising},
            isolate=here,
            record=self.record,
        )
        return Processor(context, NoWatchdog(), kind="worker", grace=lambda: Grace(0, 6))

    def add(self, ids: Ids, count: int, after_s: int, type: str = "ok") -> None:
        for number in range(count):
            due_ms = NOON_MS + 1_000 * after_s + 37 * number
            MemoryStore(self.tables).create(new_task(ids, send_ts_ms=due_ms, type=type))

    def counted(self, step: Step) -> dict[str, Statistics]:
        """All that stands in the rows, by type."""
        page = MemoryStore(self.tables).statistics(
            step, since_ms=NOON_MS - DAY_MS, until_ms=NOON_MS + DAY_MS
        )
        totals: dict[str, Statistics] = {}
        for row in page.rows:
            for type, one in decoded(row.text).items():
                totals.setdefault(type, Statistics()).merge(one)
        return totals

    def told(self, type: str) -> Counter[str]:
        """The same by the ledger."""
        words = {"given_back": "released"}
        counts: Counter[str] = Counter()
        for event, task, more in self.events:
            if task is None or task.type != type:
                continue
            counts["started"] += event == "start"
            if event == "settle" and more["committed"]:
                outcome = str(task.attempts[-1].outcome)
                counts[words.get(outcome, outcome)] += 1
            if event == "claim" and len(task.attempts) > 1:
                counts["leases_lost"] += task.attempts[-2].outcome == "lease_lost"
        return +counts


def counters(one: Statistics) -> Counter[str]:
    return +Counter({name: getattr(one, name) for name in COUNTERS})


def test_what_is_written_agrees_with_the_ledger() -> None:
    fleet, ids = Fleet(), Ids(1)
    fleet.add(ids, 500, after_s=2)
    fleet.add(ids, 200, after_s=55)  # Into the next minute.
    fleet.add(ids, 5, after_s=20, type="raising")

    async def main() -> None:
        stop = asyncio.Event()
        first, second = fleet.processor(ids), fleet.processor(ids)
        dying = asyncio.create_task(first.run(asyncio.Event()))
        living = asyncio.create_task(second.run(stop))
        await asyncio.sleep(17)
        assert isinstance(first.context.queue, Mortal)
        first.context.queue.is_dead = True
        await asyncio.sleep(80)
        stop.set()
        await living
        dying.cancel()

    run_virtually(main)
    minutes, hours = fleet.counted(Step.MINUTE), fleet.counted(Step.HOUR)
    assert minutes == hours
    assert len({row.start_ms for row in fleet.tables.statistics.values()}) >= 2
    told, counted = fleet.told("ok"), counters(minutes["ok"])
    lost = told - counted
    assert counted - told == Counter(), "nothing is counted that did not happen"
    assert 0 < sum(lost.values()) < 2 * 27 * 10, "the killed processor's last 10 s"
    assert told["leases_lost"] > 0
    assert (
        counters(minutes["raising"])
        == fleet.told("raising")
        == Counter(started=15, retried=10, failed=5)
    )
    assert minutes["raising"].lateness.count == 5, "of first starts only"
    assert minutes["raising"].run_time.count == 15


def test_nothing_is_lost_by_a_processor_that_drains() -> None:
    fleet, ids = Fleet(), Ids(2)
    fleet.add(ids, 100, after_s=2)

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(fleet.processor(ids).run(stop))
        await asyncio.sleep(6)
        stop.set()
        await running

    run_virtually(main)
    (one,) = fleet.counted(Step.MINUTE).values()
    assert counters(one) == fleet.told("ok") == Counter(started=100, completed=100)
    records = list(fleet.tables.tasks.values())
    assert one.lateness.max_ms == max(task.lateness_ms or 0 for task in records)
    assert one.lateness.sum_ms == sum(task.lateness_ms or 0 for task in records)
    assert one.run_time.percentile_ms(0.5) == pytest.approx(200, rel=0.06)


class Store(MemoryQueue):
    """Remembers puts; fails them while it is away."""

    def __init__(self) -> None:
        super().__init__(Tables(), shards=4)
        self.puts: list[list[StatisticsRow]] = []
        self.is_away = False

    async def put_statistics(self, rows: Any) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        self.puts.append(list(rows))
        await super().put_statistics(rows)


class Kit:
    """A writer on a fake clock."""

    def __init__(self) -> None:
        self.clock, self.store, self.ids = FakeClock(), Store(), Ids(4)
        self.writer = StatisticsWriter("p", self.store, self.clock)

    def start(self, count: int = 1) -> None:
        for _ in range(count):
            now_ms = self.clock.now_ms()
            task = new_task(self.ids, send_ts_ms=now_ms, now_ms=now_ms)
            self.writer("start", task.claimed(now_ms=now_ms, claim="c", processor="p"))

    def write(self) -> None:
        asyncio.run(self.writer.write())

    def stored(self, step: Step) -> dict[int, int]:
        """Starts by the time of their row."""
        found: Counter[int] = Counter()
        for row in self.store.tables.statistics.values():
            if row.step is step:
                found[row.start_ms] += decoded(row.text)["Baz"].started
        return dict(found)


def test_a_put_takes_fifty_starts_or_ten_seconds() -> None:
    kit = Kit()
    for _ in range(200):  # One start a second, looked at every 5 s.
        kit.start()
        kit.clock.tick(1)
        if round(kit.clock.elapsed_s) % 5 == 0:
            kit.write()
    assert len(kit.store.puts) <= 21
    puts = len(kit.store.puts)
    for _ in range(20):
        kit.start(100)
        kit.clock.tick(5)
        kit.write()
    assert len(kit.store.puts) - puts == 20, "0.01 a task"
    kit.clock.tick(100)
    kit.write()
    assert len(kit.store.puts) - puts == 20, "nothing has changed"


def test_a_new_minute_begins_a_row_and_the_old_one_is_written_whole() -> None:
    kit = Kit()
    for _ in range(5):
        kit.start(60)
        kit.write()
        kit.start(3)
        kit.clock.tick(60)
    kit.write()
    minutes = kit.stored(Step.MINUTE)
    assert minutes == {NOON_MS + n * 60_000: 63 for n in range(5)}
    assert kit.stored(Step.HOUR) == {NOON_MS: 5 * 63}


@pytest.mark.parametrize("back_s", [-60, -120, -7_200])
def test_a_clock_that_goes_back_overwrites_nothing(back_s: int) -> None:
    kit = Kit()
    for seconds in (300, back_s, 60, back_s, 0):
        kit.start(60)
        kit.clock.tick(11)
        kit.write()
        kit.clock.start_ms += seconds * 1_000
    assert sum(kit.stored(Step.MINUTE).values()) == 300
    assert sum(kit.stored(Step.HOUR).values()) == 300


def test_what_could_not_be_put_is_put_later() -> None:
    kit = Kit()
    kit.store.is_away = True
    for _ in range(3):
        kit.start(60)
        with pytest.raises(StoreUnavailable):
            kit.write()
        kit.clock.tick(60)
    kit.store.is_away = False
    kit.clock.tick(11)
    kit.write()
    assert sorted(kit.stored(Step.MINUTE).values()) == [60, 60, 60]


def test_what_waits_for_the_store_is_bounded() -> None:
    kit = Kit()
    kit.store.is_away = True
    for _ in range(2 * ROWS_MAX):
        kit.start()
        with pytest.raises(StoreUnavailable):
            asyncio.run(kit.writer.write_now())
        kit.clock.tick(60)
    kit.store.is_away = False
    asyncio.run(kit.writer.write_now())
    (rows,) = kit.store.puts
    assert len(rows) <= ROWS_MAX + 1
    assert max(row.start_ms for row in rows) == NOON_MS + (2 * ROWS_MAX - 1) * 60_000


def test_what_is_counted_during_a_put_is_put_by_the_next() -> None:
    kit = Kit()

    class Slow(Store):
        async def put_statistics(self, rows: Any) -> None:
            await super().put_statistics(rows)
            kit.start(7)

    kit.store = Slow()
    kit.writer = StatisticsWriter("p", kit.store, kit.clock)
    kit.start(60)
    kit.write()
    kit.clock.tick(120)
    kit.write()
    kit.clock.tick(11)
    kit.write()
    assert kit.stored(Step.MINUTE)[NOON_MS] == 67
