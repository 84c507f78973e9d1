"""One tick, on a real engine."""

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.processing import tick
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task, TaskState
from tests.support.fakes import ClockAhead, Ids, new_task


@pytest.mark.wall_clock
def test_tick_runs_what_is_due(
    client: Client, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = SystemClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)
    ids, now_ms = Ids(5), clock.now_ms()
    tasks = [
        store.create(new_task(ids, send_ts_ms=now_ms + 100 * i, now_ms=now_ms)) for i in range(9)
    ]
    end_s = clock.monotonic_s() + 11.5
    counts = tick.run(lambda: (end_s - clock.monotonic_s()) * 1000, settings, clock)
    assert counts["completed"] == 9
    done: list[Task] = [store.get(task.id) for task in tasks]
    assert {task.state for task in done} == {TaskState.COMPLETED}
    assert sorted(capfd.readouterr().out.split("\n")) == sorted(
        ["", *(str(t.result) for t in done)]
    )


@pytest.mark.wall_clock
def test_tick_without_time_claims_nothing(client: Client, settings: Settings) -> None:
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix, shards=4)
    now_ms = SystemClock().now_ms()
    task = store.create(new_task(Ids(6), send_ts_ms=now_ms + 3_000, now_ms=now_ms))
    tick.run(lambda: 3_000, settings)
    assert store.get(task.id).state is TaskState.SCHEDULED


@pytest.mark.wall_clock
def test_tick_on_a_clock_that_is_ahead_starts_nothing_early(
    client: Client, settings: Settings
) -> None:
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix, shards=4)
    now_ms = SystemClock().now_ms()
    task = store.create(new_task(Ids(7), send_ts_ms=now_ms + 30_000, now_ms=now_ms))
    ends_s = SystemClock().monotonic_s() + 13
    tick.run(lambda: (ends_s - SystemClock().monotonic_s()) * 1000, settings, ClockAhead())
    assert store.get(task.id).attempt == 0
