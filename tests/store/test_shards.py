"""SHARDS is changed on a live system, with processes of different settings alive at once."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.contract import TaskFilter
from chalicelib.task import Task, TaskState, shard_of
from local.store_check import check_rows
from tests.support.cluster import Cluster
from tests.support.fakes import Ids, new_task

pytestmark = pytest.mark.wall_clock

STEPS = (4, 16, 2)
"""The settings, in the order in which they are rolled out."""


class Rollout(Cluster):
    """A cluster whose clients and workers can be given another SHARDS each."""

    def with_shards(self, client: Client, shards: int) -> "Rollout":
        prefix = self.settings.table_prefix
        store = AlternatorTaskStore(client, self.clock, prefix=prefix, shards=shards)
        return Rollout(
            replace(self.settings, shards=shards),
            store,
            self.folder,
            self.clock,
            self.processes,
        )

    def add_unfinished(self, delay_s: float) -> list[str]:
        return self.add("Baz", 40, delay_s)


@pytest.fixture
def rollouts(settings: Settings, client: Client, tmp_path: Path) -> Iterator[list[Rollout]]:
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix)
    first = Rollout(settings, store, tmp_path)
    yield [first.with_shards(client, shards) for shards in STEPS]
    first.end()


def listed(rollout: Rollout, state: TaskState | None = None) -> Counter[str]:
    """Ids of all pages, as often as they are shown."""
    states = None if state is None else frozenset({state})
    found: Counter[str] = Counter()
    filter = TaskFilter(states=states, limit=50)
    while True:
        page = rollout.store.list(filter)
        found.update(task.id for task in page.tasks)
        if page.next is None:
            return found
        filter = replace(filter, after=page.next)


def test_shards_change_on_a_live_system(rollouts: list[Rollout]) -> None:
    """Tasks created under each setting run once, whatever setting the workers alive have."""
    before = rollouts[0]
    ids: list[str] = []
    for number, rollout in enumerate(rollouts, 1):
        rollout.worker()
        before.wait_ready(number)
        # Tasks of every setting there was are due while all these workers are alive.
        for earlier in rollouts[:number]:
            ids += earlier.add_unfinished(delay_s=3.0)
        for anyone in rollouts:
            assert listed(anyone) == Counter(ids)
    tasks = finish(before, ids)
    for anyone in rollouts:
        assert listed(anyone) == Counter(ids)
        assert listed(anyone, TaskState.COMPLETED) == Counter(ids)
        assert not listed(anyone, TaskState.SCHEDULED)
    assert Counter(before.lines()) == Counter(task.result for task in tasks)
    assert {task.attempt for task in tasks} == {1}
    for anyone in rollouts:
        found = check_rows(anyone.settings, anyone.clock)
        assert (found.line(), found.breaches) == (
            f"kept: {len(ids)} tasks, {len(ids)} rows, 0 missing, 0 surplus, 0 unnamed",
            [],
        ), "each deletes the rows that the task has"


def test_task_with_rows_under_two_settings_is_listed_once(rollouts: list[Rollout]) -> None:
    """As a sweep leaves it: a process puts again what it misses, by its own setting."""
    before, more, _ = rollouts
    now_ms, ids = before.clock.now_ms(), Ids()
    tasks = [new_task(ids, send_ts_ms=now_ms + 60_000, now_ms=now_ms) for _ in range(20)]
    for task in tasks:
        assert more.store.create(before.store.create(task)) == task
    assert any(shard_of(task.id, STEPS[0]) != shard_of(task.id, STEPS[1]) for task in tasks)
    for anyone in rollouts:
        assert listed(anyone) == Counter(task.id for task in tasks)
        assert listed(anyone, TaskState.SCHEDULED) == Counter(task.id for task in tasks)


def test_tasks_of_another_setting_are_found_by_workers_that_start_later(
    rollouts: list[Rollout],
) -> None:
    """Nobody with the old setting is left: the directory names the shards that it used."""
    _, more, fewer = rollouts
    ids = more.add_unfinished(delay_s=2.0)
    fewer.worker()
    tasks = finish(fewer, ids)
    assert {task.attempt for task in tasks} == {1}
    assert Counter(fewer.lines()) == Counter(task.result for task in tasks)


def test_shards_that_appear_later_are_seen(rollouts: list[Rollout]) -> None:
    """A worker learns of them within SHARDS_INTERVAL_S, however few it was told of."""
    _, more, fewer = rollouts
    fewer.worker()
    fewer.wait_ready(1)
    ids = more.add_unfinished(delay_s=0.0)
    tasks = finish(fewer, ids, seconds=45)
    assert {task.attempt for task in tasks} == {1}


def finish(rollout: Rollout, ids: list[str], seconds: float = 60) -> list[Task]:
    tasks = rollout.wait_finished(ids, seconds)
    assert {task.state for task in tasks} == {TaskState.COMPLETED}
    # A line is printed after the commit.
    rollout.wait_for(lambda: len(rollout.lines()) >= len(ids), 5)
    return tasks
