"""Any sequence of calls gives the same results and errors on the engine as in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from chalicelib.attempts import LEASE_MS
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.contract import Position, TaskFilter, TaskQueue, TaskStore
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables
from chalicelib.task import FINISHED, VISIBLE, Task
from tests.support.fakes import NOON_MS, FakeClock, Ids, hint_of, new_task
from tests.support.profile import CheckedTransport

DAY_MS = 86_400_000
SHARDS = 4
FAR_S = 1e9
STATES = sorted(VISIBLE)
offsets_ms = st.sampled_from([-7_200_000, -1, 0, 1, 5_000, 299_999, 300_000, 3_600_000])


class StoreMachine(RuleBasedStateMachine):
    """Each example has a month of its own on the same tables."""

    examples: ClassVar = count(1)
    real: ClassVar[tuple[TaskStore, TaskQueue]]
    clock: ClassVar[FakeClock]
    run: ClassVar[Callable[[Any], Any]]

    tasks = Bundle("tasks")
    held = Bundle("held")

    @initialize()
    def begin(self) -> None:
        example = next(self.examples)
        self.start_ms = NOON_MS + example * 30 * DAY_MS
        type(self).clock.start_ms = self.start_ms - int(self.clock.elapsed_s * 1000)
        self.ids = Ids(example)
        tables = Tables()
        self.model = (MemoryStore(tables), MemoryQueue(tables, shards=SHARDS))

    def both(self, call: Callable[[TaskStore, TaskQueue], Any]) -> Any:
        """Make the call on both; they must agree. Gives the result, None for an error."""
        expected, found = (self.outcome(call, *stores) for stores in (self.model, self.real))
        assert found == expected
        return found if not isinstance(found, tuple) or found[0] != "error" else None

    def outcome(self, call: Callable[[TaskStore, TaskQueue], Any], *stores: Any) -> Any:
        try:
            result = call(*stores)
            return type(self).run(result) if asyncio.iscoroutine(result) else result
        except SchedulerError as error:
            return ("error", type(error), getattr(error, "task", None))

    @rule(target=tasks, offset_ms=offsets_ms, type=st.sampled_from(["Foo", "Baz"]))
    def create(self, offset_ms: int, type: str) -> Task:
        now_ms = self.clock.now_ms()
        task = new_task(self.ids, send_ts_ms=now_ms + offset_ms, now_ms=now_ms, type=type)
        self.both(lambda store, _: store.create(task))
        return task

    @rule(task=tasks)
    def create_again(self, task: Task) -> None:
        self.both(lambda store, _: store.create(task))

    @rule(task=tasks)
    def create_another_under_its_id(self, task: Task) -> None:
        other = replace(task, token=self.ids())
        self.both(lambda store, _: store.create(other))

    @rule(task=tasks)
    def get(self, task: Task) -> None:
        self.both(lambda store, _: store.get(task.id))

    @rule(task=tasks)
    def delete(self, task: Task) -> None:
        now_ms, token = self.clock.now_ms(), self.ids()
        self.both(lambda store, _: store.delete(task.id, now_ms=now_ms, token=token))

    @rule(task=tasks, is_repeated=st.booleans())
    def run_again(self, task: Task, is_repeated: bool) -> None:
        now_ms, token = self.clock.now_ms(), self.ids()
        for _ in range(1 + is_repeated):
            self.both(lambda store, _: store.retry(task.id, now_ms=now_ms, token=token))

    @rule(target=held, task=tasks)
    def claim(self, task: Task) -> Task | None:
        hint, claim, now_ms = hint_of(task), self.ids(), self.now()
        answer = self.both(
            lambda _, queue: queue.claim(
                hint, claim=claim, processor="p", now_ms=now_ms, until_s=FAR_S
            )
        )
        return answer if isinstance(answer, Task) else None

    @rule(task=held, how=st.sampled_from(["complete", "fail", "retry", "give back"]))
    def settle(self, task: Task | None, how: str) -> None:
        if task is None:
            return
        settled = {
            "complete": task.started(self.now()).completed("x", now_ms=self.now()),
            "fail": task.failed("no", now_ms=self.now()),
            "retry": task.failed_once("no", now_ms=self.now(), jitter=lambda: 0.0),
            "give back": task.released(now_ms=self.now(), hint_due_ms=task.send_ts_ms),
        }[how]
        won = self.both(lambda _, queue: queue.settle(task, settled, until_s=FAR_S))
        if won and settled.state in FINISHED:
            self.both(lambda _, queue: queue.forget_open(settled))

    @rule(seconds=st.sampled_from([0.001, 1, LEASE_MS / 1000, 400]))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @rule()
    def sweep(self) -> None:
        now_ms = self.now()
        for stores in (self.model, self.real):
            type(self).run(stores[1].sweep_overdue(now_ms=now_ms))

    @rule(
        states=st.none() | st.frozensets(st.sampled_from(STATES), min_size=1),
        types=st.none() | st.just(frozenset({"Foo"})),
        limit=st.integers(1, 4),
        descending=st.booleans(),
        after=st.none() | tasks,
    )
    def list(self, after: Task | None, **wanted: Any) -> None:
        position = None if after is None else Position(after.send_ts_ms, after.id)
        filter = TaskFilter(
            after=position,
            since_ms=self.start_ms - DAY_MS,
            until_ms=self.start_ms + 9 * DAY_MS,
            **wanted,
        )
        self.both(lambda store, _: list(walk(store, filter)))

    @invariant()
    def hints_lead_to_all_claimable_tasks(self) -> None:
        if not hasattr(self, "model"):
            return
        until_ms = self.now() + 1
        claimable = [
            task for task in self.model[0].tables.tasks.values() if task.is_claimable(self.now())
        ]
        hinted = set()
        for shard in range(SHARDS):
            page = type(self).run(
                self.real[1].due(
                    shard, since_ms=self.start_ms - 1, until_ms=until_ms, limit=500, resume=None
                )
            )
            hinted |= {hint.id for hint in page.hints}
        assert {task.id for task in claimable} <= hinted

    def now(self) -> int:
        return self.clock.now_ms()


def walk(store: TaskStore, filter: TaskFilter) -> Any:
    """All pages; where a page ends may differ, what they show together may not."""
    while True:
        page = store.list(filter)
        yield from page.tasks
        if page.next is None:
            return
        filter = replace(filter, after=page.next)


@pytest.mark.wall_clock
def test_stores_agree(client: Client, settings_of_tables: Settings) -> None:
    clock, prefix = FakeClock(), settings_of_tables.table_prefix
    with asyncio.Runner() as runner:

        async def open_queue() -> tuple[CheckedTransport, AlternatorTaskQueue]:
            transport = CheckedTransport.open(settings_of_tables, clock)
            queue = AlternatorTaskQueue(transport, clock, prefix=prefix, shards=SHARDS)
            return transport, queue

        transport, queue = runner.run(open_queue())
        StoreMachine.real = (
            AlternatorTaskStore(client, clock, prefix=prefix, shards=SHARDS),
            queue,
        )
        StoreMachine.clock = clock
        StoreMachine.run = staticmethod(runner.run)
        run_state_machine_as_test(
            StoreMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            ),
        )
        runner.run(transport.close())


@pytest.fixture
def settings_of_tables(request: pytest.FixtureRequest) -> Settings:
    """The service's settings: `settings` is Hypothesis's word here."""
    found: Settings = request.getfixturevalue("settings")
    return found
