"""The contract of TaskStore, on every store there is."""

from dataclasses import replace

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.errors import TaskExists, TaskNotFailed, TaskNotFound, TaskRunning
from chalicelib.store.contract import PAGE_PAYLOAD_CHARS, Heartbeat, Position, TaskFilter
from chalicelib.task import Task, TaskState
from tests.conftest import QueueKit, StoreKit
from tests.support.fakes import NOON_MS, hint_of, new_task

HOUR_MS = 3_600_000


def create(kit: StoreKit, send_ts_ms: int = NOON_MS + 60_000, type: str = "Baz") -> Task:
    task = new_task(kit.ids, send_ts_ms=send_ts_ms, now_ms=kit.clock.now_ms(), type=type)
    return kit.store.create(task)


def walk(kit: StoreKit, filter: TaskFilter) -> list[Task]:
    """All pages, with a bound on their number."""
    tasks: list[Task] = []
    for _ in range(100):
        page = kit.store.list(filter)
        assert len(page.tasks) <= filter.limit
        tasks.extend(page.tasks)
        if page.next is None:
            return tasks
        filter = replace(filter, after=page.next)
    raise AssertionError("the walk does not end")


def test_created_task_is_read_back_whole(store_kit: StoreKit) -> None:
    task = create(store_kit)
    assert task.state is TaskState.SCHEDULED
    assert store_kit.store.get(task.id) == task


def test_the_request_id_is_kept_as_long_as_the_task(store_kit: StoreKit) -> None:
    new = replace(new_task(store_kit.ids, now_ms=NOON_MS - 1), request_id="night-3")
    assert store_kit.store.create(new).request_id == "night-3"
    (other,) = store_kit.store.create_many([replace(new, id=store_kit.ids(), request_id="b")])
    assert isinstance(other, Task)
    listed = walk(store_kit, TaskFilter())
    assert {task.request_id for task in listed} == {"night-3", "b"}
    assert store_kit.store.get(new.id) == new


def test_past_task_is_due_at_once(store_kit: StoreKit) -> None:
    task = create(store_kit, send_ts_ms=NOON_MS - 5_000)
    assert store_kit.store.get(task.id).due_at_ms == NOON_MS


def test_repeated_create_is_the_same_create(store_kit: StoreKit) -> None:
    task = create(store_kit)
    assert store_kit.store.create(task) == task


def test_create_never_replaces_another_task(store_kit: StoreKit) -> None:
    task = create(store_kit)
    other = replace(task, token=store_kit.ids(), type="Foo")
    with pytest.raises(TaskExists) as error:
        store_kit.store.create(other)
    assert error.value.task == task
    assert store_kit.store.get(task.id) == task


def test_unknown_task_is_not_found(store_kit: StoreKit) -> None:
    with pytest.raises(TaskNotFound):
        store_kit.store.get(store_kit.ids())
    with pytest.raises(TaskNotFound):
        store_kit.store.delete(store_kit.ids(), now_ms=NOON_MS, token=store_kit.ids())


def test_deleted_task_is_gone_everywhere(store_kit: StoreKit) -> None:
    task, kept = create(store_kit), create(store_kit)
    store_kit.store.delete(task.id, now_ms=NOON_MS, token=store_kit.ids())
    with pytest.raises(TaskNotFound):
        store_kit.store.get(task.id)
    with pytest.raises(TaskNotFound):
        store_kit.store.delete(task.id, now_ms=NOON_MS, token=store_kit.ids())
    assert walk(store_kit, TaskFilter()) == [kept]
    assert walk(store_kit, TaskFilter(states=frozenset({TaskState.SCHEDULED}))) == [kept]


def test_late_create_does_not_bring_a_deleted_task_back(store_kit: StoreKit) -> None:
    """A create that seemed lost may be applied, or sent again, after the delete."""
    task = create(store_kit)
    store_kit.store.delete(task.id, now_ms=NOON_MS, token=store_kit.ids())
    with pytest.raises(TaskExists):
        store_kit.store.create(task)
    with pytest.raises(TaskNotFound):
        store_kit.store.get(task.id)


def test_list_is_ordered_by_time_then_id(store_kit: StoreKit) -> None:
    times = [NOON_MS + 5, NOON_MS, NOON_MS + 5, NOON_MS - 3 * HOUR_MS, NOON_MS + 30 * HOUR_MS]
    tasks = [create(store_kit, time) for time in times]
    expected = sorted(tasks, key=lambda task: (task.send_ts_ms, task.id))
    assert walk(store_kit, TaskFilter()) == expected
    assert walk(store_kit, TaskFilter(descending=True)) == expected[::-1]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_show_each_task_once(store_kit: StoreKit, limit: int, descending: bool) -> None:
    tasks = [create(store_kit, NOON_MS + i // 3 * HOUR_MS // 4) for i in range(20)]
    expected = sorted(tasks, key=lambda task: (task.send_ts_ms, task.id), reverse=descending)
    assert walk(store_kit, TaskFilter(limit=limit, descending=descending)) == expected


@pytest.mark.parametrize("descending", [False, True])
def test_since_is_inclusive_and_until_is_not(store_kit: StoreKit, descending: bool) -> None:
    tasks = [create(store_kit, NOON_MS + i) for i in range(4)]
    span = TaskFilter(since_ms=NOON_MS + 1, until_ms=NOON_MS + 3, descending=descending)
    assert sorted(t.send_ts_ms for t in walk(store_kit, span)) == [NOON_MS + 1, NOON_MS + 2]
    assert walk(store_kit, TaskFilter(since_ms=NOON_MS + 1, until_ms=NOON_MS + 1)) == []
    assert len(tasks) == 4


def test_list_by_type_and_state(store_kit: StoreKit) -> None:
    foo, bar = create(store_kit, type="Foo"), create(store_kit, type="Bar")
    assert walk(store_kit, TaskFilter(types=frozenset({"Foo"}))) == [foo]
    both = TaskFilter(types=frozenset({"Foo", "Bar"}), states=frozenset({TaskState.SCHEDULED}))
    assert {task.id for task in walk(store_kit, both)} == {foo.id, bar.id}
    assert walk(store_kit, TaskFilter(states=frozenset({TaskState.COMPLETED}))) == []


def test_first_and_last_year_can_be_listed(store_kit: StoreKit) -> None:
    first = create(store_kit, send_ts_ms=-62_135_596_800_000)
    last = create(store_kit, send_ts_ms=253_402_300_799_999)
    now = create(store_kit)
    assert walk(store_kit, TaskFilter()) == [first, now, last]
    assert walk(store_kit, TaskFilter(descending=True, limit=1)) == [last, now, first]


def test_cursor_position_need_not_exist_any_more(store_kit: StoreKit) -> None:
    tasks = [create(store_kit, NOON_MS + i) for i in range(3)]
    store_kit.store.delete(tasks[1].id, now_ms=NOON_MS, token=store_kit.ids())
    after = Position(tasks[1].send_ts_ms, tasks[1].id)
    assert walk(store_kit, TaskFilter(after=after)) == [tasks[2]]
    assert walk(store_kit, TaskFilter(after=after, descending=True)) == [tasks[0]]


def test_check_accepts_its_own_tables(store_kit: StoreKit) -> None:
    store_kit.store.check()


def claimed(kit: QueueKit, task: Task) -> Task:
    hints = [
        hint
        for shard in range(kit.shards)
        for hint in kit.run(
            kit.queue.due(
                shard, since_ms=None, until_ms=NOON_MS + LEASE_MS * 10, limit=100, resume=None
            )
        ).hints
        if hint.id == task.id
    ]
    held = kit.run(
        kit.queue.claim(
            hints[0],
            claim=kit.ids(),
            processor="p",
            now_ms=kit.clock.now_ms(),
            until_s=kit.clock.monotonic_s() + 3,
        )
    )
    assert isinstance(held, Task)
    return held


def test_running_task_is_listed_and_not_deleted(queue_kit: QueueKit) -> None:
    task = create(queue_kit, NOON_MS)
    held = claimed(queue_kit, task)
    assert walk(queue_kit, TaskFilter(states=frozenset({TaskState.RUNNING}))) == [held]
    with pytest.raises(TaskRunning) as error:
        queue_kit.store.delete(task.id, now_ms=NOON_MS, token=queue_kit.ids())
    assert error.value.task == held


UNFINISHED = TaskFilter(states=frozenset({TaskState.SCHEDULED, TaskState.RUNNING}))
LATER_MS = NOON_MS + 60_000


def failed(kit: QueueKit) -> Task:
    """A failed task, of which its processor has yet to delete what leads to it."""
    held = claimed(kit, create(kit, NOON_MS))
    settled = held.failed("boom", now_ms=NOON_MS + 7)
    assert kit.run(kit.queue.settle(held, settled, until_s=60.0))
    return settled


def test_failed_task_is_run_again(queue_kit: QueueKit) -> None:
    task = failed(queue_kit)
    again = queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    assert again == task.retried(now_ms=LATER_MS, token="t")
    assert queue_kit.store.get(task.id) == again
    assert queue_kit.store.has_hint(again)
    held = queue_kit.run(
        queue_kit.queue.claim(
            hint_of(again), claim="c", processor="p", now_ms=LATER_MS, until_s=60.0
        )
    )
    assert isinstance(held, Task)
    assert (held.attempt, held.failures, held.leases_lost) == (2, 0, 0)
    assert [attempt.outcome for attempt in held.attempts] == ["failed", "running"]
    completed = held.completed("Baz 1", now_ms=LATER_MS)
    assert queue_kit.run(queue_kit.queue.settle(held, completed, until_s=60.0))
    assert queue_kit.store.get(task.id) == completed


def test_repeated_retry_is_the_same_retry(queue_kit: QueueKit) -> None:
    task = failed(queue_kit)
    again = queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    assert queue_kit.store.retry(task.id, now_ms=LATER_MS + 5, token="t") == again
    queue_kit.clock.tick(60)
    held = claimed(queue_kit, again)
    assert queue_kit.store.retry(task.id, now_ms=LATER_MS + 5, token="t") == held
    settled = held.failed("boom", now_ms=LATER_MS + 7)
    assert queue_kit.run(queue_kit.queue.settle(held, settled, until_s=1e9))
    assert queue_kit.store.retry(task.id, now_ms=LATER_MS + 9, token="t") == settled
    other = queue_kit.store.retry(task.id, now_ms=LATER_MS + 9, token="t2")
    assert (other.state, other.attempt, other.due_at_ms) == ("scheduled", 2, LATER_MS + 9)


def test_only_a_failed_task_is_run_again(queue_kit: QueueKit) -> None:
    scheduled, running = create(queue_kit, NOON_MS), claimed(queue_kit, create(queue_kit, NOON_MS))
    held = claimed(queue_kit, create(queue_kit, NOON_MS))
    completed = held.completed("Baz 1", now_ms=NOON_MS + 7)
    assert queue_kit.run(queue_kit.queue.settle(held, completed, until_s=60.0))
    task = failed(queue_kit)
    again = queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    for other in (scheduled, running, completed, again):
        with pytest.raises(TaskNotFailed) as error:
            queue_kit.store.retry(other.id, now_ms=LATER_MS, token=queue_kit.ids())
        assert error.value.task == other == queue_kit.store.get(other.id)


def test_no_task_is_run_again_that_is_not_there(queue_kit: QueueKit) -> None:
    task = failed(queue_kit)
    queue_kit.store.delete(task.id, now_ms=NOON_MS + 9, token=queue_kit.ids())
    for task_id in (task.id, queue_kit.ids()):
        with pytest.raises(TaskNotFound):
            queue_kit.store.retry(task_id, now_ms=LATER_MS, token=queue_kit.ids())
    assert walk(queue_kit, TaskFilter()) == []


def test_task_that_is_run_again_can_be_deleted(queue_kit: QueueKit) -> None:
    task = failed(queue_kit)
    again = queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    queue_kit.store.delete(task.id, now_ms=LATER_MS, token=queue_kit.ids())
    with pytest.raises(TaskNotFound):
        queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    assert not queue_kit.store.has_hint(again)
    assert walk(queue_kit, UNFINISHED) == []


@pytest.mark.parametrize("late", ["asked for before", "asked for after", "flushed before"])
def test_task_that_is_run_again_stays_among_the_unfinished(queue_kit: QueueKit, late: str) -> None:
    """Its processor deletes what led to the failed task whenever it likes."""
    task = failed(queue_kit)
    if late != "asked for after":
        queue_kit.run(queue_kit.queue.forget_open(task))
    if late == "flushed before":
        queue_kit.run(queue_kit.queue.flush())
    again = queue_kit.store.retry(task.id, now_ms=LATER_MS, token="t")
    if late == "asked for after":
        queue_kit.run(queue_kit.queue.forget_open(task))
    queue_kit.run(queue_kit.queue.flush())
    assert walk(queue_kit, UNFINISHED) == [again]
    assert queue_kit.run(queue_kit.queue.sweep_overdue(now_ms=LATER_MS + 60_001)) <= 1
    assert walk(queue_kit, UNFINISHED) == [again]


def test_delete_after_the_lease_stops_the_zombie(queue_kit: QueueKit) -> None:
    task = create(queue_kit, NOON_MS)
    held = claimed(queue_kit, task)
    over_ms = NOON_MS + LEASE_MS
    queue_kit.store.delete(task.id, now_ms=over_ms, token=queue_kit.ids())
    settled = held.completed("Baz 1", now_ms=over_ms)
    assert not queue_kit.run(queue_kit.queue.settle(held, settled, until_s=60.0))
    with pytest.raises(TaskNotFound):
        queue_kit.store.get(task.id)


def test_finished_task_leaves_the_unfinished_and_can_be_deleted(queue_kit: QueueKit) -> None:
    task = create(queue_kit, NOON_MS)
    held = claimed(queue_kit, task)
    settled = held.completed("Baz 1", now_ms=NOON_MS + 7)
    assert queue_kit.run(queue_kit.queue.settle(held, settled, until_s=60.0))
    assert walk(queue_kit, TaskFilter(states=frozenset({TaskState.SCHEDULED}))) == []
    assert walk(queue_kit, TaskFilter(states=frozenset({TaskState.COMPLETED}))) == [settled]
    queue_kit.store.delete(task.id, now_ms=NOON_MS + 8, token=queue_kit.ids())
    assert walk(queue_kit, TaskFilter()) == []


# Payload


def test_payload_is_kept_to_the_letter(store_kit: StoreKit) -> None:
    text = '{"a":"é\U0001f3a8\\u0000\\"","b":[1.5,null,{}],"c":""}'
    task = replace(new_task(store_kit.ids), payload=text)
    assert store_kit.store.create(task) == task
    assert store_kit.store.get(task.id).payload == text
    assert walk(store_kit, TaskFilter()) == [task]
    assert create(store_kit).payload is None


def test_page_of_large_payloads_is_short(store_kit: StoreKit) -> None:
    large = '{"a":"' + "x" * 32_000 + '"}'
    tasks = [replace(new_task(store_kit.ids), payload=large) for _ in range(70)]
    store_kit.store.create_many(tasks)
    page = store_kit.store.list(TaskFilter(limit=1000))
    assert len(page.tasks) == -(-PAGE_PAYLOAD_CHARS // len(large))
    assert walk(store_kit, TaskFilter(limit=1000)) == sorted(tasks, key=lambda task: task.id)


# Many at once


def test_many_are_created_in_order(store_kit: StoreKit) -> None:
    tasks = [new_task(store_kit.ids, send_ts_ms=NOON_MS + i * HOUR_MS // 5) for i in range(100)]
    assert store_kit.store.create_many(tasks) == tasks
    assert walk(store_kit, TaskFilter()) == tasks
    assert walk(store_kit, TaskFilter(states=frozenset({TaskState.SCHEDULED}))) == tasks
    assert store_kit.store.create_many([]) == []


def test_many_of_which_some_exist(store_kit: StoreKit) -> None:
    tasks = [new_task(store_kit.ids) for _ in range(4)]
    store_kit.store.create(tasks[0])
    store_kit.store.create(tasks[1])
    other = replace(tasks[1], token=store_kit.ids(), type="Foo")
    store_kit.store.create(tasks[2])
    store_kit.store.delete(tasks[2].id, now_ms=NOON_MS, token=store_kit.ids())
    first, second, third, fourth = store_kit.store.create_many([tasks[0], other, *tasks[2:]])
    assert (first, fourth) == (tasks[0], tasks[3])
    assert isinstance(second, TaskExists)
    assert second.task == tasks[1]
    assert isinstance(third, TaskExists)
    assert third.task.state is TaskState.DELETED
    assert {task.id for task in walk(store_kit, TaskFilter())} == {
        tasks[0].id,
        tasks[1].id,
        tasks[3].id,
    }


# What explains


def test_hint_of_a_task_is_there_until_it_is_forgotten(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    assert queue_kit.store.has_hint(task)
    assert not queue_kit.store.has_hint(replace(task, due_at_ms=NOON_MS))
    assert not queue_kit.store.has_hint(replace(task, due_at_ms=None))
    assert task.due_at_ms is not None
    queue_kit.run(queue_kit.queue.forget_hint(hint_of(task)))
    queue_kit.run(queue_kit.queue.flush())
    assert not queue_kit.store.has_hint(task)


def test_heartbeats_are_seen(queue_kit: QueueKit) -> None:
    assert list(queue_kit.store.heartbeats()) == []
    heartbeats = [Heartbeat(processor=p, kind="worker", written_ms=NOON_MS) for p in "ab"]
    for heartbeat in heartbeats:
        queue_kit.run(queue_kit.queue.put_heartbeat(heartbeat))
    assert sorted(queue_kit.store.heartbeats(), key=str) == heartbeats
