"""Walks along lists on the engine, while others create, run and delete."""

import asyncio
import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import TaskNotFound, TaskRunning
from chalicelib.output import Lines, Outlet
from chalicelib.processing.context import Context
from chalicelib.processing.processor import Processor
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.contract import TaskFilter
from chalicelib.task import Task, TaskState
from tests.support.fakes import Ids, NoWatchdog, new_task

HOUR_MS = 3_600_000
SCHEDULED = TaskFilter(states=frozenset({TaskState.SCHEDULED}))

pytestmark = pytest.mark.wall_clock


class Churn:
    """Others at work on the same tables: they create, run and delete."""

    def __init__(self, settings: Settings, store: AlternatorTaskStore, ids: Ids) -> None:
        self.settings = settings
        self.store = store
        self.ids = ids
        self.clock = SystemClock()
        self.stopped = threading.Event()
        self.counts: Counter[str] = Counter()

    def create_and_delete(self, seed: int) -> None:
        """At times before, between and behind those of the tasks that last."""
        rng, mine = Random(seed), list[Task]()
        while not self.stopped.is_set():
            now_ms = self.clock.now_ms()
            send_ts_ms = now_ms + rng.choice([-HOUR_MS, 0, 1, rng.randrange(6 * HOUR_MS)])
            mine.append(self.store.create(new_task(self.ids, send_ts_ms=send_ts_ms, now_ms=now_ms)))
            self.counts["created"] += 1
            if len(mine) > 20:
                self._delete(mine.pop(rng.randrange(len(mine))), now_ms)

    def _delete(self, task: Task, now_ms: int) -> None:
        try:
            self.store.delete(task.id, now_ms=now_ms, token=self.ids())
            self.counts["deleted"] += 1
        except (TaskRunning, TaskNotFound):
            self.counts["not deleted"] += 1

    def run_what_is_due(self) -> None:
        async def work() -> None:
            queue = AlternatorTaskQueue.open(self.settings, self.clock)
            context = Context.of(
                self.settings, queue, self.clock, Lines(Outlet(2, self.clock), self.clock)
            )
            stop = asyncio.Event()
            processor = Processor(context, NoWatchdog(), kind="worker")
            running = asyncio.create_task(processor.run(stop))
            await asyncio.to_thread(self.stopped.wait)
            stop.set()
            await running
            await queue.close()
            self.counts["run"] = context.counts[TaskState.COMPLETED]

        asyncio.run(work())


def walk(store: AlternatorTaskStore, filter: TaskFilter) -> list[Task]:
    """All pages; in order, and none twice."""
    seen: list[Task] = []
    while True:
        page = store.list(filter)
        assert len(page.tasks) <= filter.limit
        seen.extend(page.tasks)
        if page.next is None:
            break
        filter = replace(filter, after=page.next)
    places = [(task.send_ts_ms, task.id) for task in seen]
    assert places == sorted(set(places), reverse=filter.descending)
    return seen


def test_a_walk_sees_every_lasting_task_once_whatever_others_do(
    settings: Settings, client: Client
) -> None:
    """Lasting ones are far off, or run meanwhile; many share their instant."""
    clock, ids, rng = SystemClock(), Ids(11), Random(11)
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=settings.shards)
    now_ms = clock.now_ms()
    soon = [new_task(ids, send_ts_ms=now_ms + i // 3 * 500, now_ms=now_ms) for i in range(100)]
    hours = [HOUR_MS, HOUR_MS + 1, 2 * HOUR_MS, 5 * HOUR_MS]
    later = [
        new_task(ids, send_ts_ms=now_ms + rng.choice(hours), now_ms=now_ms) for _ in range(200)
    ]
    for start in range(0, 200, 100):
        store.create_many(later[start : start + 100])
    store.create_many(soon)
    all_ids, later_ids = {t.id for t in soon + later}, {t.id for t in later}
    churn = Churn(settings, store, ids)
    pool = ThreadPoolExecutor(3)
    others = [
        pool.submit(churn.run_what_is_due),
        pool.submit(churn.create_and_delete, 1),
        pool.submit(churn.create_and_delete, 2),
    ]
    try:
        for limit, descending in itertools.product((7, 50, 1000), (False, True)):
            everything = TaskFilter(limit=limit, descending=descending)
            seen = Counter(task.id for task in walk(store, everything))
            assert {id: seen[id] for id in all_ids} == dict.fromkeys(all_ids, 1)
            scheduled = replace(SCHEDULED, limit=limit, descending=descending)
            seen = Counter(task.id for task in walk(store, scheduled))
            assert {id: seen[id] for id in later_ids} == dict.fromkeys(later_ids, 1)
    finally:
        churn.stopped.set()
        for other in others:
            other.result()
        pool.shutdown()
    assert min(churn.counts[what] for what in ("created", "deleted", "run")) > 20, churn.counts
