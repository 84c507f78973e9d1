"""The processor on the memory store, in an event loop in which sleeping takes no time."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest

from chalicelib.attempts import LEASE_MS, Attempt
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable
from chalicelib.processing.context import Context
from chalicelib.processing.isolation import Isolated
from chalicelib.processing.ledger import Record, no_record
from chalicelib.processing.processor import Grace, LoopEnded, Processor
from chalicelib.store.contract import Heartbeat, Hint, HintPage, Refused
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables, put_rows
from chalicelib.task import LOST_LEASES_MAX, Task, TaskState
from chalicelib.task_types import Handler, Run
from tests.support.fakes import (
    NOON_MS,
    ODD_ERRORS,
    Here,
    Ids,
    LoopClock,
    NoWatchdog,
    VirtualLoop,
    new_task,
    run_virtually,
)

SHARDS = 16


async def ok(run: Run) -> str:
    return f"ok {run.task.id}"


async def slow(run: Run) -> str:
    await asyncio.sleep(3)
    return "slow"


async def endless(run: Run) -> str:
    await asyncio.sleep(60)
    return "never"


async def raising(run: Run) -> str:
    raise ValueError("boom \ud800")


@dataclass
class Bench:
    """Tasks in memory, and processors on them."""

    handlers: Mapping[str, Handler]
    tables: Tables = field(default_factory=Tables)
    ids: Ids = field(default_factory=Ids)
    lines: list[str] = field(default_factory=list)
    batch_size: int = 100

    def add(self, type: str, delay_s: float = 0.0, count: int = 1) -> list[Task]:
        send_ts_ms = NOON_MS + round(delay_s * 1000)
        tasks = [new_task(self.ids, send_ts_ms=send_ts_ms, type=type) for _ in range(count)]
        for task in tasks:
            MemoryStore(self.tables).create(task)
        return tasks

    def now(self, task: Task) -> Task:
        return self.tables.tasks[task.id]

    def processor(
        self,
        name: str = "p",
        *,
        queue: MemoryQueue | None = None,
        offset_ms: int = 0,
        isolate: Callable[[Run], Awaitable[Isolated]] | None = None,
        kind: str = "worker",
        hand_over_s: float = 0.0,
        record: Record = no_record,
    ) -> Processor:
        async def run_here(run: Run) -> Isolated:
            return Here(self.handlers[run.task.type], run)

        context = Context(
            id=name,
            queue=queue or MemoryQueue(self.tables, shards=SHARDS),
            clock=LoopClock(offset_ms),
            rng=Random(name),
            settings=Settings(shards=SHARDS, batch_size=self.batch_size),
            emit=self.lines.append,
            handlers=self.handlers,
            isolate=isolate or run_here,
            record=record,
        )
        return Processor(context, NoWatchdog(), kind=kind, grace=lambda: Grace(hand_over_s))


async def run_for(seconds: float, *processors: Processor) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await asyncio.gather(*(processor.run(stop) for processor in processors))


def go(seconds: float, bench: Bench, **options: object) -> None:
    run_virtually(lambda: run_for(seconds, bench.processor(**options)))  # type: ignore[arg-type]


def test_task_runs_at_its_instant_and_leaves_nothing_behind() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok", delay_s=5.0)
    go(10, bench)
    done = bench.now(task)
    assert (done.state, done.attempt, done.lateness_ms) == (TaskState.COMPLETED, 1, 0)
    assert done.result == f"ok {task.id}"
    assert bench.lines == [f"ok {task.id}"]
    assert bench.tables.hints == {}
    assert bench.tables.open == set()
    assert bench.tables.heartbeats == {}


async def painting(run: Run, *, colour: str, size: int = 1) -> str:
    return f"{colour} {size}"


def test_handler_gets_the_payload_as_its_keyword_parameters() -> None:
    bench = Bench({"painting": painting})
    one, other, unfit = bench.add("painting", count=3)
    bench.tables.tasks[one.id] = replace(one, payload='{"colour":"red"}')
    bench.tables.tasks[other.id] = replace(other, payload='{"colour":"blue","size":2}')
    bench.tables.tasks[unfit.id] = replace(unfit, payload='{"taste":1}')
    go(2, bench)
    assert sorted(bench.lines) == ["blue 2", "red 1"]
    failed = bench.now(unfit)
    assert (failed.state, failed.failures) == (TaskState.SCHEDULED, 1)
    assert failed.error == "InvalidRequest: painting takes no payload.taste."


def test_attempts_tell_who_tried_and_what_came_of_it() -> None:
    bench = Bench({"raising": raising})
    (task,) = bench.add("raising")
    go(12, bench)
    first, second, third = bench.now(task).attempts
    assert [first.outcome, second.outcome, third.outcome] == ["retried", "retried", "failed"]
    assert {first.processor, second.processor, third.processor} == {"p"}
    assert third.ended_ts_ms == bench.now(task).finished_ts_ms
    assert third.error == bench.now(task).error


def test_nothing_starts_before_its_time() -> None:
    """1,000 tasks over 20 s: none early, none late by more than a loop's turn."""
    bench = Bench({"ok": ok})
    tasks = [bench.add("ok", delay_s=i * 0.02)[0] for i in range(1_000)]
    go(30, bench)
    lateness = [bench.now(task).lateness_ms for task in tasks]
    assert all(ms is not None and 0 <= ms <= 2 for ms in lateness), max(lateness, key=str)


def test_batch_runs_side_by_side() -> None:
    bench = Bench({"slow": slow})
    tasks = bench.add("slow", delay_s=2.0, count=100)
    go(5.5, bench)
    assert {bench.now(task).state for task in tasks} == {TaskState.COMPLETED}


def test_free_place_is_filled_at_once() -> None:
    bench = Bench({"slow": slow}, batch_size=10)
    tasks = bench.add("slow", count=20)
    go(6.9, bench)
    assert {bench.now(task).state for task in tasks} == {TaskState.COMPLETED}


def test_failures_are_retried_and_the_third_is_final() -> None:
    bench = Bench({"raising": raising})
    (task,) = bench.add("raising")
    go(20, bench)
    failed = bench.now(task)
    assert (failed.state, failed.attempt, failed.failures) == (TaskState.FAILED, 3, 3)
    assert failed.error == "ValueError: boom ?"
    assert bench.lines == []
    assert bench.tables.hints == {}
    assert bench.tables.open == set()


def test_handler_is_cancelled_at_its_timeout() -> None:
    bench = Bench({"endless": endless})
    (task,) = bench.add("endless")
    go(5.1, bench)
    assert bench.now(task).error == "Timeout: not finished within 5 s"
    assert bench.now(task).state is TaskState.SCHEDULED
    go(30, bench)
    assert bench.now(task).state is TaskState.FAILED


def test_result_after_the_timeout_does_not_count() -> None:
    """The handler swallows its cancellation and goes on for a while."""

    async def stubborn(run: Run) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "late"

    bench = Bench({"stubborn": stubborn})
    (task,) = bench.add("stubborn")
    go(6.5, bench)
    assert bench.now(task).error == "Timeout: not finished within 5 s"
    assert bench.lines == []


@pytest.mark.parametrize(("raised", "error"), ODD_ERRORS)
def test_whatever_a_handler_raises_is_its_failure(raised: BaseException, error: str) -> None:
    async def handler(run: Run) -> str:
        raise raised

    bench = Bench({"odd": handler, "ok": ok})
    (task,) = bench.add("odd")
    (neighbour,) = bench.add("ok", delay_s=0.5)
    go(20, bench)
    failed = bench.now(task)
    assert (failed.state, failed.attempt, failed.failures) == (TaskState.FAILED, 3, 3)
    assert failed.error == error
    assert bench.now(neighbour).state is TaskState.COMPLETED


async def cancels_itself(run: Run) -> str:
    cancel_this_task()
    await asyncio.sleep(1)
    return "never"


async def cancels_itself_and_returns(run: Run) -> str:
    cancel_this_task()
    return "never"


def is_cancelled_at_once(run: Run) -> Awaitable[str]:
    cancel_this_task()
    return asyncio.sleep(1, "never")


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize(
    "handler", [cancels_itself, cancels_itself_and_returns, is_cancelled_at_once]
)
def test_handler_that_cancels_itself_has_failed(handler: Handler) -> None:
    bench = Bench({"odd": handler})
    (task,) = bench.add("odd")
    go(20, bench)
    failed = bench.now(task)
    assert (failed.state, failed.attempt, failed.failures) == (TaskState.FAILED, 3, 3)
    assert failed.error == "CancelledError: the handler cancelled itself"


def test_handler_that_cancels_itself_later_does_not_reach_the_attempt() -> None:
    async def early(run: Run) -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1, task.cancel)
        return "early"

    class SlowQueue(MemoryQueue):
        async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
            await asyncio.sleep(2)
            return await super().settle(held, settled, until_s=until_s)

    bench = Bench({"early": early})
    (task,) = bench.add("early")
    go(4, bench, queue=SlowQueue(bench.tables, shards=SHARDS))
    assert (bench.now(task).state, bench.now(task).attempt) == (TaskState.COMPLETED, 1)
    assert bench.lines == ["early"]


class Yielding:
    """Awaits what nobody can."""

    def __init__(self, yielded: object) -> None:
        self._yielded = yielded

    def __await__(self) -> Iterator[Any]:
        while True:
            yield self._yielded


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "TypeError: object NoneType can't be used in 'await' expression"),
        ("a line", "TypeError: object str can't be used in 'await' expression"),
        (Yielding(17), "RuntimeError: Task got bad yield: 17"),
    ],
)
def test_handler_that_is_no_coroutine_has_failed(answer: object, error: str) -> None:
    def handler(run: Run) -> Any:
        return answer

    bench = Bench({"odd": handler})
    (task,) = bench.add("odd")
    go(20, bench)
    assert (bench.now(task).state, bench.now(task).failures) == (TaskState.FAILED, 3)
    assert bench.now(task).error == error


@pytest.mark.parametrize("spared", [(), ("main",)])
def test_handler_that_ends_the_loops_ends_the_processor(spared: tuple[str, ...]) -> None:
    """Rather than to stand still: a new process takes its place."""

    async def cancels_all(run: Run) -> str:
        for task in asyncio.all_tasks():
            if task.get_name() not in ("test", *spared):
                task.cancel()
        return "never"

    bench = Bench({"odd": cancels_all})
    (task,) = bench.add("odd")

    async def run() -> None:
        this = asyncio.current_task()
        assert this is not None
        this.set_name("test")
        main = asyncio.create_task(bench.processor().run(asyncio.Event()), name="main")
        await asyncio.wait({main}, timeout=1)
        with pytest.raises((LoopEnded, asyncio.CancelledError)):
            main.result()

    run_virtually(run)
    assert bench.now(task).state is TaskState.RUNNING


def test_attempt_that_was_cancelled_is_made_again_when_its_lease_is_over() -> None:
    """A handler cancelled its neighbour's."""
    bench = Bench({"slow": slow})
    (task,) = bench.add("slow")

    async def cancel() -> None:
        processor = bench.processor()
        running = asyncio.create_task(run_for(16, processor))
        await asyncio.sleep(1)
        processor.runner.running[task.id].cancel()
        await running

    run_virtually(cancel)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert done.started_ts_ms is not None
    assert LEASE_MS <= done.started_ts_ms - NOON_MS <= LEASE_MS + 1_100


def test_process_that_stood_still_before_its_handler_could_start_gives_the_task_back() -> None:
    started: list[int] = []

    async def notes(run: Run) -> str:
        started.append(run.task.attempt)
        return "in time"

    bench = Bench({"notes": notes})
    (task,) = bench.add("notes")

    def stand_still(event: str, task: Task, **_: object) -> None:
        loop = asyncio.get_running_loop()
        if event == "start" and task.attempt == 1 and isinstance(loop, VirtualLoop):
            loop.call_soon(loop.stand_still, 3.1)

    go(4, bench, record=stand_still)
    assert started == [2]
    done = bench.now(task)
    assert (done.state, done.given_back, done.failures) == (TaskState.COMPLETED, 1, 0)


@pytest.mark.parametrize("line", [None, 17, b"x", "two\nlines", "x" * 4096, "\ud800"])
def test_nonsense_from_a_handler_is_its_failure(line: object) -> None:
    async def handler(run: Run) -> str:
        return line  # type: ignore[return-value]

    bench = Bench({"odd": handler})
    (task,) = bench.add("odd")
    go(1.0, bench)
    assert bench.now(task).failures == 1
    assert bench.lines == []


def test_task_of_a_dead_processor_runs_again_when_its_lease_is_over() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    dead = task.claimed(now_ms=NOON_MS, claim="dead", processor="dead")
    bench.tables.tasks[task.id] = dead
    go(12, bench)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert done.started_ts_ms is not None
    assert LEASE_MS <= done.started_ts_ms - NOON_MS <= LEASE_MS + 50


def after_lost_leases(task: Task, count: int) -> Task:
    lost = [Attempt(n, "dead", NOON_MS).overtaken(NOON_MS + LEASE_MS) for n in range(1, count + 1)]
    return replace(task, attempts=tuple(lost))


def test_task_with_a_lost_lease_runs_in_a_process_of_its_own() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    bench.tables.tasks[task.id] = after_lost_leases(task, 1)
    isolated: list[str] = []

    async def alone(run: Run) -> str:
        isolated.append(run.task.id)
        return "alone"

    async def isolate(run: Run) -> Isolated:
        return Here(alone, run)

    go(1, bench, isolate=isolate)
    assert isolated == [task.id]
    assert bench.lines == ["alone"]


def test_process_that_is_not_ready_in_time_gives_the_task_back() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    bench.tables.tasks[task.id] = after_lost_leases(task, 1)

    async def isolate(run: Run) -> Isolated:
        await asyncio.sleep(3.1)
        return Here(ok, run)

    go(3.05, bench, isolate=isolate)
    assert bench.now(task).given_back > 0
    assert bench.now(task).failures == 0
    assert bench.lines == []


def test_without_a_process_for_its_handler_a_task_is_given_back_for_a_second() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    bench.tables.tasks[task.id] = after_lost_leases(task, 1)
    tries: list[float] = []

    async def isolate(run: Run) -> Isolated:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 3:
            raise ConnectionResetError
        return Here(ok, run)

    go(4, bench, isolate=isolate)
    done = bench.now(task)
    assert (done.state, done.given_back, done.failures) == (TaskState.COMPLETED, 2, 0)
    assert done.leases_lost == 1
    assert tries == pytest.approx([0, 1, 2], abs=0.01)


def test_processor_that_stood_still_until_its_process_was_ready_gives_the_task_back() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    bench.tables.tasks[task.id] = after_lost_leases(task, 1)

    async def isolate(run: Run) -> Isolated:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.stand_still(3.1)
        return Here(ok, run)

    go(3.05, bench, isolate=isolate)
    assert bench.now(task).given_back > 0
    assert bench.lines == []


def test_task_that_lost_ten_leases_is_buried_unrun() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    bench.tables.tasks[task.id] = after_lost_leases(task, LOST_LEASES_MAX)
    go(1, bench)
    buried = bench.now(task)
    assert buried.state is TaskState.FAILED
    assert buried.error == "LeasesLost: 10 attempts were lost with their processors"
    assert bench.lines == []


@pytest.mark.parametrize(("lost", "rest_s"), [(2, 0), (3, 5), (4, 10), (8, 160), (9, 320)])
def test_task_that_lost_leases_rests_before_it_runs_again(lost: int, rest_s: float) -> None:
    """The last of them has just ended."""
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    leases = after_lost_leases(task, lost).attempts
    just_lost = tuple(one._replace(ended_ts_ms=NOON_MS) for one in leases)
    bench.tables.tasks[task.id] = replace(task, attempts=just_lost)
    go(rest_s + 1, bench)
    done = bench.now(task)
    assert (done.state, done.given_back, done.failures) == (TaskState.COMPLETED, bool(rest_s), 0)
    assert done.attempts[-1].started_ts_ms == NOON_MS + rest_s * 1000


@dataclass
class MortalFleet:
    """One processor at a time; a new one takes the place of the one that was killed."""

    bench: Bench
    deaths_s: list[float] = field(default_factory=list)
    dying: asyncio.Event = field(default_factory=asyncio.Event)
    never: asyncio.Event = field(default_factory=asyncio.Event)

    async def killer(self, run: Run) -> str:
        """Ends its processor, also from a process of its own."""
        self.dying.set()
        await self.never.wait()
        return "never"

    async def live(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        while (left_s := until_s - loop.time()) > 0:
            before = asyncio.all_tasks()
            processor = self.bench.processor(f"p{len(self.deaths_s)}")
            running = asyncio.create_task(processor.run(asyncio.Event()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.dying.wait(), left_s)
                self.deaths_s.append(loop.time())
            self.dying.clear()
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await asyncio.wait({running}, timeout=0.2)


def test_task_whose_workers_are_killed_while_it_runs_is_completed_at_last() -> None:
    bench = Bench({"slow": slow})
    (task,) = bench.add("slow")

    async def restart_thrice() -> None:
        fleet = MortalFleet(bench)
        living = asyncio.create_task(fleet.live(80))
        for attempt in (1, 2, 3, 5):  # The fourth only finds that it has to rest.
            async with asyncio.timeout(30):
                while bench.now(task).attempt < attempt:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            fleet.dying.set()
        await living

    run_virtually(restart_thrice)
    done = bench.now(task)
    assert (done.state, done.leases_lost, done.failures) == (TaskState.COMPLETED, 4, 0)
    assert bench.lines == ["slow"]


def test_task_that_kills_its_processors_does_so_ever_less_often_and_is_failed() -> None:
    bench = Bench({})
    fleet = MortalFleet(bench)
    bench.handlers = {"killer": fleet.killer, "ok": ok}
    (task,) = bench.add("killer", delay_s=1)
    neighbours = [bench.add("ok", delay_s=delay_s)[0] for delay_s in range(0, 900, 10)]
    run_virtually(lambda: fleet.live(900))
    failed = bench.now(task)
    assert failed.state is TaskState.FAILED
    assert failed.error == "LeasesLost: 10 attempts were lost with their processors"
    waits_s = [round(later - earlier) for earlier, later in pairwise(fleet.deaths_s)]
    assert waits_s == [10, 10, 15, 20, 30, 50, 90, 170, 330]
    done = [bench.now(neighbour) for neighbour in neighbours]
    assert {(one.state, one.failures) for one in done} == {(TaskState.COMPLETED, 0)}
    assert sum(one.leases_lost for one in done) <= 1, "they run again, and at once mostly"


@pytest.mark.parametrize("after_s", [0.0, 0.4, 3.0, 60.0])
def test_failed_task_that_is_run_again_runs_at_once(after_s: float) -> None:
    is_mended = False

    async def fragile(run: Run) -> str:
        if not is_mended:
            raise ValueError("broken")
        return "mended"

    bench = Bench({"fragile": fragile})
    (task,) = bench.add("fragile")

    async def repair() -> None:
        nonlocal is_mended
        running = asyncio.create_task(run_for(20 + after_s, bench.processor()))
        while bench.now(task).state is not TaskState.FAILED:
            await asyncio.sleep(0.1)
        await asyncio.sleep(after_s)
        is_mended = True
        MemoryStore(bench.tables).retry(task.id, now_ms=LoopClock().now_ms(), token="t")
        again = bench.now(task)
        await running
        started_ms, due_at_ms = bench.now(task).started_ts_ms, again.due_at_ms
        assert started_ms is not None and due_at_ms is not None
        assert started_ms - due_at_ms < 1_000

    run_virtually(repair)
    done = bench.now(task)
    assert (done.state, done.attempt, done.failures) == (TaskState.COMPLETED, 4, 0)
    assert [one.outcome for one in done.attempts] == ["retried", "retried", "failed", "completed"]
    assert bench.lines == ["mended"]
    assert (bench.tables.hints, bench.tables.open) == ({}, set())


def test_task_run_again_after_its_hint_was_seen_runs_soon() -> None:
    """The hint is put before the task is written."""
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    failed = task.claimed(now_ms=NOON_MS, claim="c", processor="p").failed("x", now_ms=NOON_MS)
    bench.tables.tasks[task.id] = failed

    async def run_again_late() -> None:
        running = asyncio.create_task(run_for(4, bench.processor()))
        await asyncio.sleep(1)
        again = failed.retried(now_ms=NOON_MS + 1_000, token="t")
        put_rows(bench.tables, again)
        await asyncio.sleep(1)
        bench.tables.tasks[task.id] = again
        await running

    run_virtually(run_again_late)
    assert bench.now(task).state is TaskState.COMPLETED


def test_hint_of_a_retry_that_never_came_is_kept_for_a_minute() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    held = task.claimed(now_ms=NOON_MS, claim="c", processor="p")
    bench.tables.tasks[task.id] = held.failed("x", now_ms=NOON_MS)
    bench.tables.hints = {(NOON_MS + 1, task.id): "ok"}
    go(55, bench)
    assert len(bench.tables.hints) == 1
    bench.tables.hints = {(NOON_MS - 1, task.id): "ok"}
    go(5, bench)
    assert bench.tables.hints == {}


def test_zombie_prints_nothing() -> None:
    """Its lease is taken over while its handler runs: the other's result counts."""
    bench = Bench({"slow": slow})
    (task,) = bench.add("slow")

    async def take_over() -> None:
        running = asyncio.create_task(run_for(8, bench.processor()))
        await asyncio.sleep(1)
        bench.tables.tasks[task.id] = replace(bench.now(task), claim="another")
        await running

    run_virtually(take_over)
    assert bench.lines == []
    assert bench.now(task).claim == "another"


def test_deleted_task_never_runs() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok", delay_s=3)

    async def delete() -> None:
        running = asyncio.create_task(run_for(6, bench.processor()))
        await asyncio.sleep(2.5)
        hints = dict(bench.tables.hints)
        MemoryStore(bench.tables).delete(task.id, now_ms=NOON_MS + 2_500, token="t")
        bench.tables.hints.update(hints)
        await running

    run_virtually(delete)
    assert bench.lines == []
    assert bench.tables.hints == {}, "the hint that led nowhere is gone"


def test_hint_without_a_task_is_kept_for_a_minute() -> None:
    """Its create may still be under way."""
    bench = Bench({"ok": ok})
    bench.tables.hints[NOON_MS, bench.ids()] = "ok"
    go(55, bench)
    assert len(bench.tables.hints) == 1
    bench.tables.hints = {(NOON_MS - 62_000, bench.ids()): "ok"}
    go(35, bench)
    assert bench.tables.hints == {}


def test_task_created_after_its_hint_was_seen_runs_soon() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    del bench.tables.tasks[task.id]

    async def create_late() -> None:
        running = asyncio.create_task(run_for(3, bench.processor()))
        await asyncio.sleep(1)
        bench.tables.tasks[task.id] = task
        await running

    run_virtually(create_late)
    assert bench.now(task).state is TaskState.COMPLETED


def test_unknown_type_is_left_alone() -> None:
    bench = Bench({"ok": ok})
    (newer,) = bench.add("Newer")
    (task,) = bench.add("ok", delay_s=0.5)
    go(40, bench)
    assert bench.now(newer) == newer
    assert len(bench.tables.hints) == 1
    assert bench.now(task).state is TaskState.COMPLETED


def test_many_processors_run_each_task_once() -> None:
    bench = Bench({"ok": ok})
    tasks = bench.add("ok", delay_s=3, count=500)
    names = ["a", "b", "c"]
    run_virtually(lambda: run_for(8, *(bench.processor(name) for name in names)))
    done = [bench.now(task) for task in tasks]
    assert {(task.state, task.attempt) for task in done} == {(TaskState.COMPLETED, 1)}
    assert {task.processor for task in done} == set(names), "the shards were divided"
    assert sorted(bench.lines) == sorted(f"ok {task.id}" for task in tasks)


def test_task_under_way_here_is_not_claimed_again(caplog: pytest.LogCaptureFixture) -> None:
    """Two hints lead to it; the second is looked at when the first has been seen through."""
    bench = Bench({"slow": slow})
    (task,) = bench.add("slow")
    bench.tables.hints[NOON_MS - 10, task.id] = "slow"
    processor = bench.processor()
    run_virtually(lambda: run_for(5, processor))
    assert bench.now(task).attempt == 1
    assert bench.lines == ["slow"]
    assert bench.tables.hints == {}
    assert caplog.records == []
    assert processor.context.counts["refused"] == 1


def test_overdue_hints_of_a_stuck_owner_belong_to_everybody() -> None:
    """A processor that sends heartbeats but claims nothing owns some shards."""
    bench = Bench({"ok": ok})
    tasks = bench.add("ok", count=40)

    async def beside_a_stuck_one() -> None:
        running = asyncio.create_task(run_for(15, bench.processor()))
        for beat in range(15):
            stuck = Heartbeat(processor="stuck", kind="worker", written_ms=NOON_MS + beat)
            bench.tables.heartbeats["stuck"] = stuck
            await asyncio.sleep(1)
        await running

    run_virtually(beside_a_stuck_one)
    assert {bench.now(task).state for task in tasks} == {TaskState.COMPLETED}


@pytest.mark.parametrize("beat_takes_s", [0.0, 0.1, 0.2, 0.3])
def test_processors_that_beat_do_not_race_for_the_same_tasks(beat_takes_s: float) -> None:
    """A burst that takes seconds: who is done first leaves the others theirs."""

    class FarQueue(MemoryQueue):
        async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
            await asyncio.sleep(0.02)
            return await super().claim(hint, **options)

        async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
            await asyncio.sleep(beat_takes_s)
            await super().put_heartbeat(heartbeat)

    bench = Bench({"ok": ok}, batch_size=10)
    tasks = bench.add("ok", delay_s=6, count=6_000)
    queue = FarQueue(bench.tables, shards=SHARDS)
    fleet = [bench.processor(f"p{number}", queue=queue) for number in range(4)]
    run_virtually(lambda: run_for(20, *fleet))
    done = [bench.now(task) for task in tasks]
    assert {task.state for task in done} == {TaskState.COMPLETED}
    assert max(task.lateness_ms or 0 for task in done) > 2_000, "nothing was overdue"
    assert sum(processor.context.counts.get("refused", 0) for processor in fleet) < len(tasks) / 100


def test_draining_lets_running_tasks_end_and_claims_no_more() -> None:
    bench = Bench({"slow": slow}, batch_size=5)
    bench.add("slow", count=10)
    go(1, bench)
    states = sorted(task.state for task in bench.tables.tasks.values())
    assert states == [TaskState.COMPLETED] * 5 + [TaskState.SCHEDULED] * 5


def test_claim_answered_too_late_is_given_back_unrun() -> None:
    class LateQueue(MemoryQueue):
        async def claim(self, hint: Hint, **options: object) -> Task:
            await asyncio.sleep(3.1)
            options["now_ms"] = NOON_MS
            return await super().claim(hint, **options)  # type: ignore[arg-type, return-value]

    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    queue = LateQueue(bench.tables, shards=SHARDS)
    go(3.5, bench, queue=queue)
    given_back = bench.now(task)
    assert (given_back.given_back, given_back.failures) == (1, 0)
    assert given_back.state is TaskState.SCHEDULED
    assert bench.lines == []


def test_store_outage_is_survived() -> None:
    class Outage(MemoryQueue):
        is_out = True

        async def due(self, *args: object, **options: object) -> object:  # type: ignore[override]
            if self.is_out:
                raise StoreUnavailable
            return await super().due(*args, **options)  # type: ignore[arg-type]

        async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
            if self.is_out:
                raise ConnectionError("out")

    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    queue = Outage(bench.tables, shards=SHARDS)

    async def end_outage() -> None:
        running = asyncio.create_task(run_for(25, bench.processor(queue=queue)))
        await asyncio.sleep(20)
        queue.is_out = False
        await running

    run_virtually(end_outage)
    assert bench.now(task).state is TaskState.COMPLETED


def test_lost_settlement_is_left_to_the_lease() -> None:
    class DeafOnce(MemoryQueue):
        deaf = True

        async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
            if self.deaf:
                self.deaf = False
                raise StoreUnavailable
            return await super().settle(held, settled, until_s=until_s)

    bench = Bench({"ok": ok})
    (task,) = bench.add("ok")
    go(15, bench, queue=DeafOnce(bench.tables, shards=SHARDS))
    assert (bench.now(task).state, bench.now(task).attempt) == (TaskState.COMPLETED, 2)
    assert bench.lines == [f"ok {task.id}"]


@pytest.mark.parametrize("back_ms, attempts", [(400, 1), (4_000, 2)])
def test_a_claim_that_proves_to_be_early_waits_or_is_given_back(
    back_ms: int, attempts: int
) -> None:
    """Its answer told that the clock was ahead."""

    class Telling(MemoryQueue):
        async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
            answer = await super().claim(hint, **options)
            clock.offset_ms = -back_ms
            return answer

    bench = Bench({"ok": ok})
    (task,) = bench.add("ok", delay_s=5)
    processor = bench.processor(queue=Telling(bench.tables, shards=SHARDS))
    clock = cast(LoopClock, processor.context.clock)
    run_virtually(lambda: run_for(15, processor))
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, attempts)
    assert 0 <= (done.lateness_ms or 0) < 100


def test_tick_leaves_the_fleet_before_it_stops_claiming() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok", delay_s=5.5)
    beats: list[bool] = []

    async def watch() -> None:
        tick = bench.processor(kind="tick", hand_over_s=1.5)
        running = asyncio.create_task(run_for(5, tick))
        for _ in range(6):
            await asyncio.sleep(0.95)
            beats.append("p" in bench.tables.heartbeats)
        await running

    run_virtually(watch)
    assert beats == [True] * 5 + [False]
    assert bench.now(task).state is TaskState.COMPLETED


class LaterQueue(MemoryQueue):
    """Deletes at a flush, as the real one does; notes what it is asked and when. Writes take 10 ms.

    What it has not flushed is lost with its processor.
    """

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables, shards=SHARDS)
        self.waiting: list[tuple[float, Hint]] = []
        self.flushes: list[tuple[float, float]] = []
        self.polls_s: list[float] = []

    async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
        await asyncio.sleep(0.01)
        return await super().claim(hint, **options)

    async def settle(self, held: Task, settled: Task, **options: Any) -> bool:
        await asyncio.sleep(0.01)
        return await super().settle(held, settled, **options)

    async def occupied(self, shards: Collection[int], **options: Any) -> Collection[int]:
        self.polls_s.append(asyncio.get_running_loop().time())
        return await super().occupied(shards, **options)

    async def due(self, shard: int, **options: Any) -> HintPage:
        self.polls_s.append(asyncio.get_running_loop().time())
        return await super().due(shard, **options)

    async def forget_hint(self, hint: Hint) -> None:
        self.waiting.append((asyncio.get_running_loop().time(), hint))

    async def flush(self, *, age_s: float = 0.0) -> None:
        now_s = asyncio.get_running_loop().time()
        self.flushes.append((now_s, age_s))
        ripe = [hint for asked_s, hint in self.waiting if asked_s <= now_s - age_s]
        self.waiting = [pair for pair in self.waiting if pair[0] > now_s - age_s]
        for hint in ripe:
            await super().forget_hint(hint)


def test_what_is_due_comes_before_polls_and_deletions() -> None:
    """A burst of 6 s: until its last 2,000 nothing else is read, until its last 20 nothing that
    is younger than 5 s deleted; then all is."""
    bench = Bench({"ok": ok}, batch_size=20)
    tasks = bench.add("ok", delay_s=4, count=6_000)
    queue = LaterQueue(bench.tables)
    run_virtually(lambda: run_for(14, bench.processor(queue=queue)))
    done = [bench.now(task) for task in tasks]
    assert {(task.state, task.attempt) for task in done} == {(TaskState.COMPLETED, 1)}
    ends_s = 4 + max(task.lateness_ms or 0 for task in done) / 1000
    assert 9.9 < ends_s < 10.5
    assert not [at_s for at_s in queue.polls_s if 4.6 < at_s < ends_s - 2.1]
    assert [at_s for at_s in queue.polls_s if ends_s - 2 < at_s < ends_s]
    busy = {age_s for at_s, age_s in queue.flushes if 4.6 < at_s < ends_s - 0.1}
    idle = {age_s for at_s, age_s in queue.flushes if at_s < 4 or at_s > ends_s + 0.1}
    assert (busy, idle) == ({5.0}, {0.0})
    assert bench.tables.hints == {}


def test_deletions_that_died_with_their_processor_delay_no_recovery() -> None:
    bench = Bench({"ok": ok}, batch_size=20)
    tasks = bench.add("ok", delay_s=4, count=9_000)
    queues = [LaterQueue(bench.tables) for _ in range(2)]
    dead, heir = (bench.processor(f"p{n}", queue=queue) for n, queue in enumerate(queues))
    parts = (dead, dead.runner, dead._loops, dead._sweep_timer)

    async def play() -> int:
        dying = asyncio.create_task(run_for(60, dead))
        living = asyncio.create_task(run_for(60, heir))
        await asyncio.sleep(7)
        for task in [*asyncio.all_tasks() - {living, asyncio.current_task()}]:
            if any(frame.f_locals.get("self") in parts for frame in task.get_stack()):
                task.cancel()
        dying.cancel()
        left = len(queues[0].waiting)
        queues[0].waiting.clear()
        await living
        return left

    assert run_virtually(play) > 2_000, "it left its hints"
    done = [bench.now(task) for task in tasks]
    assert {task.state for task in done} == {TaskState.COMPLETED}
    lost = [task for task in done if task.attempt == 2]
    assert 0 < len(lost) <= 20
    assert max(task.started_ts_ms or 0 for task in lost) < NOON_MS + (7 + 12) * 1000
    assert bench.tables.hints == {}


def test_heap_is_bounded_and_everything_is_worked_off() -> None:
    bench = Bench({"ok": ok})
    tasks = bench.add("ok", count=12_000)
    processor = bench.processor()
    sizes: list[int] = []

    async def watch() -> None:
        running = asyncio.create_task(run_for(20, processor))
        for _ in range(80):
            await asyncio.sleep(0.25)
            sizes.append(len(processor.agenda))
        await running

    run_virtually(watch)
    assert max(sizes) <= 10_000
    assert {bench.now(task).state for task in tasks} == {TaskState.COMPLETED}


def test_sweep_repairs_lost_hints() -> None:
    bench = Bench({"ok": ok})
    (task,) = bench.add("ok", delay_s=30)
    bench.tables.hints.clear()
    go(200, bench)
    assert bench.now(task).state is TaskState.COMPLETED
