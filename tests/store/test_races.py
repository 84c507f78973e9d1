"""Delete against processors and retry, often, on the engine: the store alone decides who wins.

A 204 means that no further attempt starts or settles. So of a delete and a claim at most one is
granted, and what a tombstone holds tells whether a settlement came before it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import TaskNotFailed, TaskNotFound, TaskRunning
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.contract import TaskFilter
from chalicelib.task import UNFINISHED, Task, TaskState
from tests.support.engine import Engine
from tests.support.fakes import Ids, hint_of, new_task

RACES = 400
"""Of each kind; of delete against claim more. On another engine a quarter."""
LEAST = 3
"""Each outcome comes at least so often, else it was no race."""
AT_ONCE = 8
LATE_MS = 2 * LEASE_MS

pytestmark = pytest.mark.wall_clock


@dataclass
class Track:
    """Deletes run in threads, as views do; claims and settlements in the loop, as processors do."""

    store: AlternatorTaskStore
    queue: AlternatorTaskQueue
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    threads: ThreadPoolExecutor
    now_ms: int
    ids: Ids
    rng: Random
    is_embedded: bool

    async def wait(self) -> None:
        """For so long that it is open who comes first. How fast another engine is is not known."""
        share = self.rng.random()
        await asyncio.sleep(0.004 * share if self.is_embedded else 0.001 * 400**share)

    def tasks(self, count: int) -> list[Task]:
        tasks = [
            new_task(self.ids, send_ts_ms=self.now_ms, now_ms=self.now_ms) for _ in range(count)
        ]
        for start in range(0, count, 100):
            part = tasks[start : start + 100]
            assert self.store.create_many(part) == part
        return tasks

    async def delete(self, task: Task, now_ms: int) -> bool:
        """Whether it was deleted; else it is running."""

        def delete() -> bool:
            try:
                self.store.delete(task.id, now_ms=now_ms, token=self.ids())
            except TaskRunning:
                return False
            return True

        await self.wait()
        return await asyncio.get_running_loop().run_in_executor(self.threads, delete)

    async def claim(self, task: Task, now_ms: int) -> Task | None:
        await self.wait()
        hint = hint_of(task, self.now_ms)
        answer = await self.queue.claim(
            hint, claim=self.ids(), processor="p", now_ms=now_ms, until_s=float("inf")
        )
        return answer if isinstance(answer, Task) else None

    async def settle(self, held: Task, settled: Task) -> bool:
        await self.wait()
        return await self.queue.settle(held, settled, until_s=float("inf"))

    async def stands(self, task: Task) -> Task:
        found = (await self.queue.get([task.id]))[task.id]
        assert found is not None
        return found

    def race(
        self, one: Callable[[Task], Coroutine[Any, Any, str]], races: int = RACES
    ) -> Counter[str]:
        """How often each outcome came."""
        races = races if self.is_embedded else races // 4

        async def all_of_them(tasks: list[Task]) -> Counter[str]:
            places = asyncio.Semaphore(AT_ONCE)

            async def next_one(task: Task) -> str:
                async with places:
                    return await one(task)

            return Counter(await asyncio.gather(*map(next_one, tasks)))

        outcomes: Counter[str] = self.run(all_of_them(self.tasks(races)))
        assert outcomes.total() == races
        return outcomes


@pytest.fixture
def track(settings: Settings, client: Client, engine: Engine) -> Iterator[Track]:
    clock = SystemClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=settings.shards)

    async def open_queue() -> AlternatorTaskQueue:
        return AlternatorTaskQueue.open(settings, clock)

    with asyncio.Runner() as runner, ThreadPoolExecutor(AT_ONCE) as threads:
        queue = runner.run(open_queue())
        yield Track(
            store, queue, runner.run, threads, clock.now_ms(), Ids(3), Random(3), engine.is_embedded
        )
        runner.run(queue.close())


def test_never_both_a_delete_and_a_claim(track: Track) -> None:
    async def one(task: Task) -> str:
        deleted, held = await asyncio.gather(
            track.delete(task, track.now_ms), track.claim(task, track.now_ms)
        )
        assert deleted == (held is None)
        stands = await track.stands(task)
        assert stands.state is (TaskState.DELETED if deleted else TaskState.RUNNING)
        return "deleted" if deleted else "claimed"

    outcomes = track.race(one, races=5 * RACES)
    assert min(outcomes["deleted"], outcomes["claimed"]) >= LEAST, outcomes


@pytest.mark.parametrize("way", ["complete", "retry", "give back"])
def test_no_settlement_after_a_delete(track: Track, way: str) -> None:
    """The lease is over, so the delete is allowed whether it comes first or last."""

    def settled_of(held: Task) -> Task:
        if way == "complete":
            return held.completed("Baz 1", now_ms=track.now_ms + 1)
        if way == "retry":
            return held.failed_once("boom", now_ms=track.now_ms + 1, jitter=lambda: 0.0)
        return held.released(now_ms=track.now_ms + 1, hint_due_ms=track.now_ms)

    async def one(task: Task) -> str:
        held = await track.claim(task, track.now_ms)
        assert held is not None
        settled_task = settled_of(held)
        deleted, settled = await asyncio.gather(
            track.delete(task, track.now_ms + LATE_MS), track.settle(held, settled_task)
        )
        assert deleted
        tombstone = await track.stands(task)
        assert tombstone.state is TaskState.DELETED
        left = settled_task if settled else held
        assert (tombstone.result, tombstone.attempts) == (left.result, left.ended_attempts)
        assert not await track.settle(held, settled_task)
        assert await track.claim(task, track.now_ms + 2 * LATE_MS) is None
        assert await track.stands(task) == tombstone
        return "settled first" if settled else "deleted first"

    outcomes = track.race(one)
    assert min(outcomes.values()) >= LEAST and len(outcomes) == 2, outcomes


def test_never_both_a_delete_and_the_next_claim_when_the_lease_is_over(track: Track) -> None:
    late_ms = track.now_ms + LATE_MS

    async def one(task: Task) -> str:
        lost = await track.claim(task, track.now_ms)
        assert lost is not None
        deleted, held, settled = await asyncio.gather(
            track.delete(task, late_ms),
            track.claim(task, late_ms),
            track.settle(lost, lost.completed("Baz 1", now_ms=late_ms)),
        )
        if held is not None:
            assert not deleted and not settled
            return "claimed"
        # Neither running nor claimed again: it was settled, deleted, or settled and then deleted.
        assert deleted
        assert (await track.stands(task)).result == ("Baz 1" if settled else None)
        return "settled" if settled else "deleted"

    outcomes = track.race(one)
    assert min(outcomes.values()) >= LEAST and len(outcomes) == 3, outcomes


def test_of_many_deletes_one_finds_the_task(track: Track) -> None:
    def delete(task: Task) -> bool:
        try:
            track.store.delete(task.id, now_ms=track.now_ms, token=track.ids())
        except TaskNotFound:
            return False
        return True

    tasks = track.tasks(100)
    found = list(track.threads.map(delete, [task for task in tasks for _ in range(4)]))
    assert [sum(found[i : i + 4]) for i in range(0, 400, 4)] == [1] * 100


def fail_all(track: Track, tasks: list[Task]) -> None:
    async def fail(task: Task) -> None:
        held = await track.claim(task, track.now_ms)
        assert held is not None
        assert await track.settle(held, held.failed("boom", now_ms=track.now_ms))

    async def fail_them() -> None:
        await asyncio.gather(*map(fail, tasks))

    track.run(fail_them())


def retry(track: Track, task: Task) -> Task | None:
    """None if it has not failed, or is not there."""
    try:
        return track.store.retry(task.id, now_ms=track.now_ms, token=track.ids())
    except (TaskNotFailed, TaskNotFound):
        return None


def test_of_many_retries_one_runs_the_task_again(track: Track) -> None:
    tasks = track.tasks(50)
    fail_all(track, tasks)
    again = list(track.threads.map(partial(retry, track), [t for t in tasks for _ in range(4)]))
    for place, task in enumerate(tasks):
        won = [one for one in again[4 * place : 4 * place + 4] if one is not None]
        assert won == [track.store.get(task.id)]


def test_delete_and_retry_come_one_after_the_other(track: Track) -> None:
    """Deleted first it is not run again; and no attempt follows a delete."""
    fail_all(track, tasks := track.tasks(RACES))
    places = asyncio.Semaphore(AT_ONCE // 2)

    async def one(task: Task) -> str:
        async with places:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(track.threads, retry, track, task)
            deleted, again = await asyncio.gather(track.delete(task, track.now_ms), running)
        assert deleted
        assert (await track.stands(task)).state is TaskState.DELETED
        assert await track.claim(task, track.now_ms + 2 * LATE_MS) is None
        return "run again first" if again else "deleted first"

    async def all_of_them() -> Counter[str]:
        return Counter(await asyncio.gather(*map(one, tasks)))

    outcomes: Counter[str] = track.run(all_of_them())
    assert min(outcomes.values()) >= LEAST and len(outcomes) == 2, outcomes
    assert track.store.list(TaskFilter(states=UNFINISHED)).tasks == []
