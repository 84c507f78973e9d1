"""A process takes the place of one that died, and claims at once what that one held."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.processing.held_claims import HeldClaims, memory_bytes
from chalicelib.processing.processor import Processor
from chalicelib.store.contract import Hint, Refused
from chalicelib.store.memory import MemoryQueue
from chalicelib.task import Task, TaskState
from chalicelib.task_types import Run
from tests.processing.test_processor import SHARDS, Bench, ok, slow
from tests.support.fakes import NOON_MS, NoWatchdog, run_virtually

PLACES = 8
SOON_MS = 50


class Place:
    """Processors that follow each other, over one memory."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.memory = bytearray(memory_bytes(PLACES))
        self.gone = asyncio.Event()
        self.gone.set()
        self.behind_ms = 0

    async def _are_gone(self) -> None:
        await self.gone.wait()

    def processor(self, queue: MemoryQueue | None = None) -> Processor:
        made = self.bench.processor(self.bench.ids(), queue=queue, offset_ms=-self.behind_ms)
        held = HeldClaims(self.memory, made.context.clock.monotonic_s())
        context = replace(made.context, held=held)
        return Processor(context, NoWatchdog(), kind="worker", are_gone=self._are_gone)

    async def live(
        self, seconds: float, queue: MemoryQueue | None = None, *, dies: bool = True
    ) -> Processor:
        """One of them, for so long; then nothing of it runs any more, or it drains."""
        stop, processor = asyncio.Event(), self.processor(queue)
        before = asyncio.all_tasks()
        running = asyncio.create_task(processor.run(stop))
        await asyncio.sleep(seconds)
        if dies:
            processor.runner._execution.stopping = True
            processor.runner._stop_timer()
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await asyncio.wait({running})
        else:
            stop.set()
            await running
        return processor

    def lost(self) -> Collection[str]:
        """What the next one would find."""
        return HeldClaims(self.memory, asyncio.get_running_loop().time()).left.keys()


async def brief(run: Run) -> str:
    await asyncio.sleep(1)
    return "brief"


def new_bench() -> Bench:
    return Bench({"ok": ok, "slow": slow, "brief": brief}, batch_size=PLACES)


def starts_ms(task: Task) -> list[int]:
    return [one.started_ts_ms - NOON_MS for one in task.attempts]


def test_what_the_dead_held_is_claimed_at_once_and_runs_in_a_process_of_its_own() -> None:
    bench = new_bench()
    tasks = bench.add("slow", delay_s=1, count=PLACES)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        assert {bench.now(task).state for task in tasks} == {TaskState.RUNNING}
        assert place.lost() == {task.id for task in tasks}
        await place.live(6, dies=False)
        assert place.lost() == set()

    run_virtually(play)
    for done in map(bench.now, tasks):
        assert (done.state, done.attempt, done.leases_lost) == (TaskState.COMPLETED, 2, 1)
        assert 2_000 <= starts_ms(done)[1] <= 2_000 + SOON_MS
        assert done.attempts[0].ended_ts_ms == NOON_MS + starts_ms(done)[1]
        assert done.attempts[0].outcome == "lease_lost"
    assert len(bench.lines) == PLACES
    assert bench.tables.hints == {}
    assert bench.tables.open == set()


def test_many_deaths_in_a_row_each_count_and_then_the_task_rests() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        for seconds in (2, 0.5, 0.5):
            await place.live(seconds)
        await place.live(0.5)
        rested = bench.now(task)
        assert (rested.state, rested.leases_lost, rested.given_back) == ("scheduled", 3, 1)
        lost_ms = rested.attempts[2].ended_ts_ms or 0
        assert 3_000 <= lost_ms - NOON_MS <= 3_000 + SOON_MS
        assert rested.due_at_ms == lost_ms + 5_000
        await place.live(15, dies=False)

    run_virtually(play)
    assert bench.now(task).state is TaskState.COMPLETED
    assert len(bench.lines) == 1


class Cut(MemoryQueue):
    """Its process dies at the first write of a kind: it never learns more."""

    def __init__(self, bench: Bench, method: str, *, is_applied: bool, late_s: float = 0.0) -> None:
        super().__init__(bench.tables, shards=SHARDS)
        self._method = method
        self._is_applied = is_applied
        self._late_s = late_s

    async def _cut(self, method: str, write: Any) -> Any:
        if method != self._method:
            return await write
        if self._is_applied:
            asyncio.get_running_loop().call_later(self._late_s, lambda: _apply(write))
        else:
            write.close()
        return await asyncio.sleep(1_000)

    async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
        answer: Task | Refused = await self._cut("claim", super().claim(hint, **options))
        return answer

    async def take_over(self, hint: Hint, **options: Any) -> Task | Refused:
        answer: Task | Refused = await self._cut("take_over", super().take_over(hint, **options))
        return answer

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        write = super().settle(held, settled, until_s=until_s)
        return bool(await self._cut("settle", write))


def _apply(write: Any) -> None:
    """The memory store never waits."""
    try:
        write.send(None)
    except StopIteration:
        return
    raise AssertionError


@pytest.mark.parametrize("is_applied", [True, False])
@pytest.mark.parametrize("method", ["claim", "settle"])
def test_a_death_at_a_write_of_unknown_outcome(method: str, is_applied: bool) -> None:
    bench = new_bench()
    (task,) = bench.add("ok", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(1.5, Cut(bench, method, is_applied=is_applied))
        await place.live(3, dies=False)

    run_virtually(play)
    done = bench.now(task)
    is_settled = method == "settle" and is_applied
    is_free = method == "claim" and not is_applied
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 1 if is_settled or is_free else 2)
    assert starts_ms(done)[-1] <= 1_500 + SOON_MS
    assert bench.lines == ([] if is_settled else [f"ok {task.id}"])


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_replacement_that_dies_while_it_takes_over(is_applied: bool) -> None:
    """Whether or not its claims were applied, the next one finds all of them."""
    bench = new_bench()
    tasks = bench.add("slow", delay_s=1, count=PLACES)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        await place.live(0.2, Cut(bench, "take_over", is_applied=is_applied))
        await place.live(5, dies=False)

    run_virtually(play)
    for done in map(bench.now, tasks):
        assert (done.state, done.attempt) == (TaskState.COMPLETED, 3 if is_applied else 2)
        assert starts_ms(done)[-1] <= 2_200 + SOON_MS
    assert len(bench.lines) == PLACES


def test_nothing_is_taken_over_before_all_that_the_dead_had_started_has_ended() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)
    (other,) = bench.add("ok", delay_s=2.2)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        place.gone.clear()
        asyncio.get_running_loop().call_later(1.0, place.gone.set)
        await place.live(6, dies=False)

    run_virtually(play)
    assert 3_000 <= starts_ms(bench.now(task))[1] <= 3_000 + SOON_MS
    assert bench.now(other).state is TaskState.COMPLETED
    assert (bench.now(other).lateness_ms or 0) < 1_000, "that held up nobody else"


def test_what_is_never_gone_is_left_to_its_lease() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        place.gone.clear()
        await place.live(14, dies=False)

    run_virtually(play)
    assert LEASE_MS + 1_000 <= starts_ms(bench.now(task))[1] <= LEASE_MS + 1_000 + SOON_MS


def test_what_was_lost_is_claimed_before_all_else() -> None:
    """Before other hints that are ready, and whatever the turn of types would be."""
    bench = new_bench()
    lost = bench.add("slow", delay_s=1, count=PLACES)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        bench.add("brief", delay_s=1, count=200)
        place.gone.clear()
        asyncio.get_running_loop().call_later(0.5, place.gone.set)
        await place.live(1.3)

    run_virtually(play)
    assert {bench.now(task).attempt for task in lost} == {2}


class Busy(MemoryQueue):
    """At first it takes nothing over."""

    def __init__(self, bench: Bench, error: type[StoreUnavailable], times: int) -> None:
        super().__init__(bench.tables, shards=SHARDS)
        self._error = error
        self._times = times

    async def take_over(self, hint: Hint, **options: Any) -> Task | Refused:
        self._times -= 1
        if self._times >= 0:
            raise self._error
        return await super().take_over(hint, **options)


def test_a_takeover_that_was_not_sent_is_tried_again_at_once() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        await place.live(6, Busy(bench, StoreBusy, 4), dies=False)

    run_virtually(play)
    assert starts_ms(bench.now(task))[1] <= 2_000 + 4 * 50 + SOON_MS


def test_a_takeover_of_unknown_outcome_waits_for_a_lease() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        await place.live(15, Busy(bench, StoreUnavailable, 1), dies=False)

    run_virtually(play)
    assert starts_ms(bench.now(task))[1] <= 2_000 + LEASE_MS + SOON_MS


def test_claims_that_the_dead_sent_and_are_applied_late_are_taken_over() -> None:
    """The heir sees the task unclaimed, or not due by its clock; then the claim arrives."""
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(1.2, Cut(bench, "claim", is_applied=True, late_s=0.3))
        await place.live(6, Late(bench, 0.2), dies=False)

    class Late(MemoryQueue):
        """Far away."""

        def __init__(self, bench: Bench, seconds: float) -> None:
            super().__init__(bench.tables, shards=SHARDS)
            self._seconds = seconds

        async def take_over(self, hint: Hint, **options: Any) -> Task | Refused:
            await asyncio.sleep(self._seconds)
            return await super().take_over(hint, **options)

    run_virtually(play)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert starts_ms(done)[1] <= 1_200 + 200 + SOON_MS


def test_claims_of_the_dead_are_remembered_while_they_may_still_come() -> None:
    """The heir's clock is behind: it is told that the task is not due. Then the claim arrives."""
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(1.1, Cut(bench, "claim", is_applied=True, late_s=0.15))
        place.behind_ms = 200
        await place.live(6, dies=False)

    run_virtually(play)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert starts_ms(done)[1] <= 2_000


def test_a_late_settlement_of_the_dead_is_refused() -> None:
    bench = new_bench()
    (task,) = bench.add("ok", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(1.2, Cut(bench, "settle", is_applied=True, late_s=0.4))
        heirs = asyncio.create_task(place.live(4, Slow(bench.tables, shards=SHARDS), dies=False))
        await asyncio.sleep(0.5)
        assert bench.now(task).state is TaskState.RUNNING
        await heirs

    class Slow(MemoryQueue):
        async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
            await asyncio.sleep(1)
            return await super().settle(held, settled, until_s=until_s)

    run_virtually(play)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert bench.lines == [f"ok {task.id}"]


def test_a_drained_processor_leaves_nothing_to_take_over() -> None:
    bench = new_bench()
    tasks = bench.add("slow", delay_s=1, count=3)

    async def play() -> None:
        place = Place(bench)
        await place.live(2, dies=False)
        assert place.lost() == set()

    run_virtually(play)
    assert {bench.now(task).state for task in tasks} == {TaskState.COMPLETED}


def test_a_memory_that_was_lost_leaves_all_to_the_leases() -> None:
    bench = new_bench()
    (task,) = bench.add("slow", delay_s=1)

    async def play() -> None:
        place = Place(bench)
        await place.live(2)
        place.memory[:] = bytes(len(place.memory))
        await place.live(14, dies=False)

    run_virtually(play)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 2)
    assert starts_ms(done)[1] >= LEASE_MS


def test_shards_of_the_dead_are_looked_at_at_once_by_who_has_its_place() -> None:
    """Nobody need believe in a death first, again and again."""
    bench = new_bench()
    tasks = bench.add("ok", delay_s=5, count=20) + bench.add("ok", delay_s=6, count=20)

    async def play() -> None:
        place = Place(bench)
        await place.live(4.9)
        await place.live(0.9)
        assert len(bench.tables.heartbeats) == 1, "of the last one alone"
        await place.live(2, dies=False)
        assert not bench.tables.heartbeats

    run_virtually(play)
    assert max(bench.now(task).lateness_ms or 0 for task in tasks) <= SOON_MS + 100


def test_two_places_take_over_each_its_own() -> None:
    bench = new_bench()
    tasks = bench.add("slow", delay_s=4, count=PLACES)

    async def play() -> None:
        one, other = Place(bench), Place(bench)
        await asyncio.gather(one.live(5), other.live(5))
        assert set(one.lost()) | set(other.lost()) == {task.id for task in tasks}
        assert one.lost() and other.lost() and not set(one.lost()) & set(other.lost())
        await asyncio.gather(one.live(0.1), other.live(0.1))
        assert {bench.now(task).attempt for task in tasks} == {2}
        await asyncio.gather(one.live(6, dies=False), other.live(6, dies=False))

    run_virtually(play)
    assert {(done.state, done.attempt) for done in map(bench.now, tasks)} == {("completed", 3)}
    assert len(bench.lines) == PLACES
