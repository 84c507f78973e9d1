"""The contract of TaskQueue, on every queue there is."""

from dataclasses import replace

from chalicelib.attempts import ATTEMPTS_KEPT, LEASE_MS, Attempt, Outcome
from chalicelib.store.contract import Heartbeat, Hint, Refused, TaskFilter
from chalicelib.task import Task, TaskState, shard_of
from tests.conftest import QueueKit
from tests.support.fakes import NOON_MS, hint_of, new_task

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
FAR_S = 60.0


def create(kit: QueueKit, send_ts_ms: int = NOON_MS, type: str = "Baz") -> Task:
    task = new_task(kit.ids, send_ts_ms=send_ts_ms, now_ms=kit.clock.now_ms(), type=type)
    return kit.store.create(task)


def hints(
    kit: QueueKit, *, until_ms: int, since_ms: int | None = None, limit: int = 100
) -> list[Hint]:
    """The hints of all shards, page by page."""
    found: list[Hint] = []
    for shard in range(kit.shards):
        resume = None
        while True:
            page = kit.run(
                kit.queue.due(
                    shard, since_ms=since_ms, until_ms=until_ms, limit=limit, resume=resume
                )
            )
            assert list(page.hints) == sorted(page.hints)
            assert len(page.hints) <= limit
            found.extend(page.hints)
            if page.next is None:
                break
            resume = page.next
    return sorted(found)


def claim(
    kit: QueueKit, hint: Hint, *, now_ms: int = NOON_MS, token: str | None = None
) -> Task | Refused:
    answer = kit.run(
        kit.queue.claim(hint, claim=token or kit.ids(), processor="p", now_ms=now_ms, until_s=FAR_S)
    )
    assert isinstance(answer, Task | Refused)
    return answer


def held(kit: QueueKit, task: Task, now_ms: int = NOON_MS) -> Task:
    answer = claim(kit, hint_of(task), now_ms=now_ms)
    assert isinstance(answer, Task)
    return answer


def settle(kit: QueueKit, held: Task, settled: Task) -> bool:
    return bool(kit.run(kit.queue.settle(held, settled, until_s=FAR_S)))


def test_hints_lead_to_tasks_at_their_time(queue_kit: QueueKit) -> None:
    now, soon, later = (create(queue_kit, NOON_MS + ms) for ms in (0, 2_000, 7 * MINUTE_MS))
    assert hints(queue_kit, until_ms=NOON_MS + 1) == [hint_of(now)]
    assert hints(queue_kit, until_ms=NOON_MS + 2_000) == [hint_of(now)]
    assert hints(queue_kit, until_ms=NOON_MS + 2_001) == [hint_of(now), hint_of(soon)]
    assert hints(queue_kit, until_ms=NOON_MS + 8 * MINUTE_MS)[-1] == hint_of(later)


def test_hints_since_a_time(queue_kit: QueueKit) -> None:
    tasks = [create(queue_kit, NOON_MS + i * MINUTE_MS) for i in range(12)]
    found = hints(
        queue_kit, since_ms=NOON_MS + 3 * MINUTE_MS, until_ms=NOON_MS + 9 * MINUTE_MS, limit=2
    )
    assert found == [hint_of(task) for task in tasks[3:9]]


def occupied(kit: QueueKit, since_ms: int, until_ms: int) -> set[int]:
    asked = kit.queue.occupied(range(kit.shards), since_ms=since_ms, until_ms=until_ms)
    return set(kit.run(asked))


def test_no_shard_with_hints_is_left_out(queue_kit: QueueKit) -> None:
    """Also of a bucket that begins within the time asked for, and of tasks that come later."""
    kit = queue_kit
    end_ms = NOON_MS + 5 * MINUTE_MS
    assert occupied(kit, NOON_MS, NOON_MS + MINUTE_MS) == set()
    for send_ts_ms in (NOON_MS, end_ms - 1, end_ms, end_ms + 1) * 2:
        task = create(kit, send_ts_ms)
        found = occupied(kit, end_ms - 5_000, end_ms + 2_000)
        assert send_ts_ms == NOON_MS or shard_of(task.id, kit.shards) in found
        assert shard_of(task.id, kit.shards) in occupied(kit, send_ts_ms, send_ts_ms + 1)


def test_hints_come_in_pages(queue_kit: QueueKit) -> None:
    tasks = [create(queue_kit, NOON_MS + i % 5 * 3 * MINUTE_MS) for i in range(30)]
    found = hints(queue_kit, until_ms=NOON_MS + 60 * MINUTE_MS, limit=3)
    assert found == sorted(map(hint_of, tasks))


def test_shards_hold_all_hints(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    assert shard_of(task.id, queue_kit.shards) in queue_kit.run(queue_kit.queue.shards())


def test_claim_gives_the_whole_task_and_a_lease(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    answer = claim(queue_kit, hint_of(task), token="c1")
    assert answer == task.claimed(now_ms=NOON_MS, claim="c1", processor="p")
    assert answer == queue_kit.store.get(task.id)


def test_claim_is_never_early(queue_kit: QueueKit) -> None:
    task = create(queue_kit, NOON_MS + 5)
    assert claim(queue_kit, hint_of(task), now_ms=NOON_MS + 4) == Refused(task)
    assert isinstance(claim(queue_kit, hint_of(task), now_ms=NOON_MS + 5), Task)


def test_second_claim_is_refused_until_the_lease_is_over(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    first = held(queue_kit, task)
    over_ms = NOON_MS + LEASE_MS
    assert claim(queue_kit, hint_of(task), now_ms=over_ms - 1) == Refused(first)
    second = claim(queue_kit, hint_of(task), now_ms=over_ms)
    assert isinstance(second, Task)
    assert (second.attempt, second.leases_lost) == (2, 1)
    assert second.first_started_ts_ms == NOON_MS


def test_repeated_claim_is_the_same_claim(queue_kit: QueueKit) -> None:
    """The answer was lost and the request is sent again."""
    task = create(queue_kit)
    first = claim(queue_kit, hint_of(task), token="c1")
    assert claim(queue_kit, hint_of(task), token="c1") == first


def test_claim_of_nothing_is_refused(queue_kit: QueueKit) -> None:
    assert claim(queue_kit, Hint(NOON_MS, queue_kit.ids(), "Baz", 0)) == Refused(None)


def test_claim_of_a_deleted_task_is_refused(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    queue_kit.store.delete(task.id, now_ms=NOON_MS, token=queue_kit.ids())
    answer = claim(queue_kit, hint_of(task))
    assert isinstance(answer, Refused)
    assert answer.task is not None
    assert answer.task.state is TaskState.DELETED


def test_claim_of_a_task_deleted_after_a_lost_lease_shows_its_tombstone(
    queue_kit: QueueKit,
) -> None:
    running = held(queue_kit, create(queue_kit))
    over_ms = NOON_MS + LEASE_MS
    queue_kit.store.delete(running.id, now_ms=over_ms, token="t")
    answer = claim(queue_kit, hint_of(running), now_ms=over_ms)
    assert answer == Refused(running.deleted(now_ms=over_ms, token="t"))


def take_over(
    kit: QueueKit, task: Task, *lost: str, now_ms: int = NOON_MS + 300, token: str = "heir"
) -> Task | Refused:
    answer = kit.run(
        kit.queue.take_over(
            hint_of(task), lost=lost, claim=token, processor="q", now_ms=now_ms, until_s=FAR_S
        )
    )
    assert isinstance(answer, Task | Refused)
    return answer


def test_a_dead_claim_is_taken_over_although_its_lease_is_not_over(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    dead = claim(queue_kit, hint_of(task), token="dead")
    assert isinstance(dead, Task)
    answer = take_over(queue_kit, task, "dead")
    assert answer == dead.taken_over(now_ms=NOON_MS + 300, claim="heir", processor="q")
    assert answer == queue_kit.store.get(task.id)
    assert not settle(queue_kit, dead, dead.completed("late", now_ms=NOON_MS + 400))
    assert settle(queue_kit, answer, answer.completed("Baz 1", now_ms=NOON_MS + 500))


def test_a_claim_of_another_is_not_taken_over(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    alive = claim(queue_kit, hint_of(task), token="alive")
    assert isinstance(alive, Task)
    assert take_over(queue_kit, task, "dead", "dead too") == Refused(alive)
    assert queue_kit.store.get(task.id) == alive


def test_a_task_that_the_dead_had_settled_is_not_taken_over(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    dead = claim(queue_kit, hint_of(task), token="dead")
    assert isinstance(dead, Task)
    done = dead.completed("Baz 1", now_ms=NOON_MS + 9)
    assert settle(queue_kit, dead, done)
    assert take_over(queue_kit, task, "dead") == Refused(done)
    assert queue_kit.store.get(task.id) == done


def test_a_task_whose_dead_claim_never_came_is_claimed(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    answer = take_over(queue_kit, task, "dead")
    assert answer == task.claimed(now_ms=NOON_MS + 300, claim="heir", processor="q")
    assert isinstance(claim(queue_kit, hint_of(task), token="dead"), Refused), "it came too late"


def test_a_takeover_is_never_early(queue_kit: QueueKit) -> None:
    task = create(queue_kit, NOON_MS + 5)
    assert take_over(queue_kit, task, "dead", now_ms=NOON_MS + 4) == Refused(task)


def test_a_repeated_takeover_is_the_same_claim(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    claim(queue_kit, hint_of(task), token="dead")
    first = take_over(queue_kit, task, "dead")
    second = take_over(queue_kit, task, "dead", now_ms=NOON_MS + 900)
    assert first == second == queue_kit.store.get(task.id)


def test_of_two_takeovers_one_wins(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    claim(queue_kit, hint_of(task), token="dead")
    first = take_over(queue_kit, task, "dead")
    assert isinstance(first, Task)
    assert take_over(queue_kit, task, "dead", token="other") == Refused(first)


def test_takeover_of_nothing_and_of_a_deleted_task_is_refused(queue_kit: QueueKit) -> None:
    never = new_task(queue_kit.ids)
    assert take_over(queue_kit, never, "dead") == Refused(None)
    task = create(queue_kit)
    queue_kit.store.delete(task.id, now_ms=NOON_MS, token="t")
    answer = take_over(queue_kit, task, "dead")
    assert isinstance(answer, Refused) and answer.task is not None
    assert answer.task.state is TaskState.DELETED


def test_complete_is_final(queue_kit: QueueKit) -> None:
    running = held(queue_kit, create(queue_kit))
    done = running.completed("Baz 7", now_ms=NOON_MS + 9)
    assert settle(queue_kit, running, done)
    assert queue_kit.store.get(done.id) == done
    assert settle(queue_kit, running, done), "the same settlement again is recognized"
    assert not settle(queue_kit, running, running.failed("no", now_ms=NOON_MS + 9))
    assert queue_kit.store.get(done.id) == done


def test_started_time_is_written_when_settled(queue_kit: QueueKit) -> None:
    claimed = held(queue_kit, create(queue_kit))
    started = claimed.started(NOON_MS + 3)
    assert settle(queue_kit, claimed, started.completed("Baz 7", now_ms=NOON_MS + 9))
    assert queue_kit.store.get(claimed.id).lateness_ms == 3


def test_zombie_settles_nothing(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    zombie = held(queue_kit, task)
    holder = held(queue_kit, task, now_ms=NOON_MS + LEASE_MS)
    late_ms = NOON_MS + LEASE_MS + 1
    for settled in (
        zombie.completed("Baz 1", now_ms=late_ms),
        zombie.failed("no", now_ms=late_ms),
        zombie.failed_once("no", now_ms=late_ms, jitter=lambda: 0.0),
        zombie.released(now_ms=late_ms, hint_due_ms=NOON_MS),
    ):
        assert not settle(queue_kit, zombie, settled)
    assert queue_kit.store.get(task.id) == holder
    assert settle(queue_kit, holder, holder.completed("Baz 2", now_ms=late_ms))


def test_retry_puts_a_new_hint_and_keeps_the_old_one(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    running = held(queue_kit, task)
    again = running.failed_once("boom", now_ms=NOON_MS + 100, jitter=lambda: 0.0)
    assert settle(queue_kit, running, again)
    assert queue_kit.store.get(task.id) == again
    assert again.due_at_ms == NOON_MS + 2_100
    assert hints(queue_kit, until_ms=NOON_MS + MINUTE_MS) == [hint_of(task), hint_of(again)]


def test_given_back_is_due_at_once_and_no_failure(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    running = held(queue_kit, task)
    returned = running.released(now_ms=NOON_MS, hint_due_ms=NOON_MS)
    assert settle(queue_kit, running, returned)
    stored = queue_kit.store.get(task.id)
    assert (stored.failures, stored.leases_lost, stored.lateness_ms) == (0, 0, None)
    assert hint_of(returned) in hints(queue_kit, until_ms=NOON_MS + 1_000)


def test_forgotten_hints_are_deleted_at_the_next_flush(queue_kit: QueueKit) -> None:
    tasks = [create(queue_kit) for _ in range(60)]
    for task in tasks[:59]:
        queue_kit.run(queue_kit.queue.forget_hint(hint_of(task)))
        queue_kit.run(queue_kit.queue.forget_hint(hint_of(task)))
    queue_kit.run(queue_kit.queue.flush())
    assert hints(queue_kit, until_ms=NOON_MS + 1) == [hint_of(tasks[59])]


def test_get_reads_tombstones_too(queue_kit: QueueKit) -> None:
    kept, deleted = create(queue_kit), create(queue_kit)
    queue_kit.store.delete(deleted.id, now_ms=NOON_MS, token=queue_kit.ids())
    found = queue_kit.run(queue_kit.queue.get({kept.id, deleted.id, queue_kit.ids()}))
    assert set(found) == {kept.id, deleted.id}
    assert found[kept.id] == kept
    assert found[deleted.id].state is TaskState.DELETED


def test_many_tasks_are_read_in_batches(queue_kit: QueueKit) -> None:
    tasks = [create(queue_kit) for _ in range(120)]
    found = queue_kit.run(queue_kit.queue.get([task.id for task in tasks]))
    assert found == {task.id: task for task in tasks}


def test_heartbeats(queue_kit: QueueKit) -> None:
    one = Heartbeat(processor="a", kind="worker", written_ms=NOON_MS)
    two = Heartbeat(processor="b", kind="tick", written_ms=NOON_MS, places=8, taken=0)
    two = replace(two, host="db-3", version="0.1.0", wakeup="10.0.0.1:7700", held_back_s=3)
    for heartbeat in (one, two, one):
        queue_kit.run(queue_kit.queue.put_heartbeat(heartbeat))
    assert sorted(queue_kit.run(queue_kit.queue.heartbeats()), key=str) == [one, two]
    queue_kit.run(queue_kit.queue.leave("a"))
    assert list(queue_kit.run(queue_kit.queue.heartbeats())) == [two]


def lose_rows(kit: QueueKit, task: Task) -> None:
    """Take away what leads to a task, as a store that lost rows would."""
    kit.run(kit.queue.forget_hint(hint_of(task)))
    finished = replace(task, state=TaskState.COMPLETED, due_at_ms=None)
    kit.run(kit.queue.forget_open(finished))
    kit.run(kit.queue.flush())


def sweep_all(kit: QueueKit, now_ms: int) -> int:
    """A whole round; between two of them a process rests."""
    kit.clock.tick(601)
    return int(kit.run(kit.queue.sweep_some(10_000, now_ms=now_ms)))


def test_slow_sweep_finds_a_task_that_nothing_leads_to(queue_kit: QueueKit) -> None:
    task, kept = create(queue_kit, NOON_MS + MINUTE_MS), create(queue_kit)
    lose_rows(queue_kit, task)
    unfinished = TaskFilter(states=frozenset({TaskState.SCHEDULED}))
    assert list(queue_kit.store.list(unfinished).tasks) == [kept]
    assert sweep_all(queue_kit, NOON_MS) > 0
    assert hint_of(task) in hints(queue_kit, until_ms=NOON_MS + 2 * MINUTE_MS)
    assert list(queue_kit.store.list(unfinished).tasks) == [kept, task]
    assert sweep_all(queue_kit, NOON_MS) == 0, "nothing grows"


def test_fast_sweep_puts_the_hint_of_an_overdue_task_again(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    queue_kit.run(queue_kit.queue.forget_hint(hint_of(task)))
    queue_kit.run(queue_kit.queue.flush())
    sweep = queue_kit.queue.sweep_overdue
    assert queue_kit.run(sweep(now_ms=NOON_MS + MINUTE_MS)) == 0, "not overdue by a minute yet"
    assert queue_kit.run(sweep(now_ms=NOON_MS + MINUTE_MS + 1)) == 1
    assert hints(queue_kit, until_ms=NOON_MS + 1) == [hint_of(task)]


def test_sweeps_leave_a_task_under_its_lease_alone(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    later_ms = NOON_MS + 5 * MINUTE_MS
    held(queue_kit, task, now_ms=later_ms)
    queue_kit.run(queue_kit.queue.forget_hint(hint_of(task)))
    queue_kit.run(queue_kit.queue.flush())
    assert sweep_all(queue_kit, later_ms + 1) == 0
    assert sweep_all(queue_kit, later_ms + LEASE_MS) > 0


def test_fast_sweep_deletes_the_open_row_of_a_finished_task(queue_kit: QueueKit) -> None:
    running = held(queue_kit, create(queue_kit))
    assert settle(queue_kit, running, running.completed("Baz 1", now_ms=NOON_MS))
    sweep = queue_kit.queue.sweep_overdue
    assert queue_kit.run(sweep(now_ms=NOON_MS + 2 * MINUTE_MS)) == 1
    assert queue_kit.run(sweep(now_ms=NOON_MS + 2 * MINUTE_MS)) == 0


def test_a_finished_task_is_gone_after_its_days(queue_kit: QueueKit) -> None:
    """Whatever its `send_ts`. One that is run again finishes again."""
    kit, failed_ms, late_ms = queue_kit, NOON_MS + 5, NOON_MS + MINUTE_MS
    tasks = [create(kit) for _ in range(4)]
    done, failed, again, waiting = [held(kit, task) for task in tasks[:3]] + tasks[3:]
    assert settle(kit, done, done.completed("x", now_ms=failed_ms))
    for one in (failed, again):
        assert settle(kit, one, one.failed("no", now_ms=failed_ms))
    kit.store.retry(again.id, now_ms=late_ms, token=kit.ids())
    assert sweep_all(kit, failed_ms + 30 * DAY_MS) >= 0
    assert len(kit.run(kit.queue.get([task.id for task in tasks]))) == 4
    assert sweep_all(kit, failed_ms + 30 * DAY_MS + 1) >= 2
    assert kit.run(kit.queue.get([task.id for task in tasks])).keys() == {again.id, waiting.id}
    assert {task.id for task in kit.store.list(TaskFilter()).tasks} == {again.id, waiting.id}
    states = frozenset({TaskState.FAILED, TaskState.COMPLETED})
    assert kit.store.list(TaskFilter(states=states)).tasks == []


def test_a_tombstone_is_gone_after_its_day(queue_kit: QueueKit) -> None:
    kit, task = queue_kit, create(queue_kit)
    kit.store.delete(task.id, now_ms=NOON_MS, token=kit.ids())
    sweep_all(kit, NOON_MS + DAY_MS - 1_000)
    assert task.id in kit.run(kit.queue.get([task.id]))
    assert sweep_all(kit, NOON_MS + DAY_MS) == 1
    assert kit.run(kit.queue.get([task.id])) == {}


# Attempts and payload


def test_claim_gives_the_payload_and_the_request_id(queue_kit: QueueKit) -> None:
    task = replace(new_task(queue_kit.ids), payload='{"a":1}', request_id="night-3")
    queue_kit.store.create(task)
    claimed = held(queue_kit, task)
    assert (claimed.payload, claimed.request_id) == ('{"a":1}', "night-3")


def test_attempts_of_a_life(queue_kit: QueueKit) -> None:
    """A lost lease, a failure, a claim given back, the end."""
    task = create(queue_kit)
    lost = held(queue_kit, task)
    assert lost.attempts == (Attempt(1, "p", NOON_MS),)
    over_ms = NOON_MS + LEASE_MS
    second = held(queue_kit, task, now_ms=over_ms)
    first = Attempt(1, "p", NOON_MS, over_ms, Outcome.LEASE_LOST)
    assert second.attempts == (first, Attempt(2, "p", over_ms))
    started = second.started(over_ms + 5)
    failed = started.failed_once("boom", now_ms=over_ms + 9, jitter=lambda: 0.0)
    assert settle(queue_kit, second, failed)
    retried = Attempt(2, "p", over_ms + 5, over_ms + 9, Outcome.RETRIED, "boom")
    assert queue_kit.store.get(task.id).attempts == (first, retried)
    third = held(queue_kit, failed, now_ms=failed.due_at_ms or 0)
    returned = third.released(now_ms=over_ms + 3_000, hint_due_ms=0)
    assert settle(queue_kit, third, returned)
    fourth = held(queue_kit, returned, now_ms=over_ms + 3_000)
    assert settle(queue_kit, fourth, fourth.completed("Baz 1", now_ms=over_ms + 3_007))
    attempts = queue_kit.store.get(task.id).attempts
    assert attempts[:2] == (first, retried)
    assert [attempt.outcome for attempt in attempts[2:]] == [
        Outcome.RELEASED,
        Outcome.COMPLETED,
    ]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]


def test_repeated_claim_is_one_attempt(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    claim(queue_kit, hint_of(task), token="c1")
    claim(queue_kit, hint_of(task), token="c1")
    assert len(queue_kit.store.get(task.id).attempts) == 1


def test_zombie_leaves_the_attempts_alone(queue_kit: QueueKit) -> None:
    task = create(queue_kit)
    zombie = held(queue_kit, task)
    holder = held(queue_kit, task, now_ms=NOON_MS + LEASE_MS)
    assert not settle(queue_kit, zombie, zombie.completed("Baz 1", now_ms=NOON_MS))
    assert queue_kit.store.get(task.id).attempts == holder.attempts


def test_attempts_of_a_task_given_back_again_and_again_are_bounded(queue_kit: QueueKit) -> None:
    task, now_ms = create(queue_kit), NOON_MS
    for _ in range(2 * ATTEMPTS_KEPT + 10):
        running = held(queue_kit, task, now_ms=now_ms)
        task = running.released(now_ms=now_ms, hint_due_ms=now_ms)
        assert settle(queue_kit, running, task)
        now_ms = task.due_at_ms or 0
    running = held(queue_kit, task, now_ms=now_ms)
    numbers = [attempt.number for attempt in queue_kit.store.get(task.id).attempts]
    assert numbers == [*range(1, 21), *range(31, 52)]
    assert running.attempts[-1] == Attempt(51, "p", now_ms)
