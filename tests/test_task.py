"""Each legal change of a task, and each forbidden one."""

import uuid

import pytest

from chalicelib.attempts import ATTEMPTS_KEPT, LEASE_MS, Attempt, Outcome
from chalicelib.task import (
    FAILURES_MAX,
    LOST_LEASES_MAX,
    TOMBSTONE_S,
    IllegalChange,
    Task,
    TaskState,
    backoff_s,
    rest_s,
    shard_of,
)
from tests.support.fakes import NOON_MS, Ids, new_task

IDS = Ids()


def claimed(task: Task, now_ms: int = NOON_MS) -> Task:
    return task.claimed(now_ms=now_ms, claim=IDS(), processor="p")


def no_jitter() -> float:
    return 0.0


def test_new_task_is_due_at_its_time_or_now() -> None:
    assert new_task(IDS, send_ts_ms=NOON_MS + 5).due_at_ms == NOON_MS + 5
    assert new_task(IDS, send_ts_ms=NOON_MS - 5).due_at_ms == NOON_MS


def test_claim_takes_the_lease_and_counts_the_attempt() -> None:
    task = claimed(new_task(IDS))
    assert task.state is TaskState.RUNNING
    assert (task.attempt, task.due_at_ms) == (1, NOON_MS + LEASE_MS)
    assert task.lateness_ms == 0


def test_claim_before_its_time_is_illegal() -> None:
    with pytest.raises(IllegalChange):
        claimed(new_task(IDS, send_ts_ms=NOON_MS + 1))


def test_claim_under_a_lease_is_illegal() -> None:
    task = claimed(new_task(IDS))
    with pytest.raises(IllegalChange):
        claimed(task, NOON_MS + LEASE_MS - 1)
    assert claimed(task, NOON_MS + LEASE_MS).leases_lost == 1


def test_complete_ends_it() -> None:
    task = claimed(new_task(IDS)).completed("Baz 1", now_ms=NOON_MS + 3)
    assert (task.state, task.result, task.due_at_ms) == (TaskState.COMPLETED, "Baz 1", None)
    assert task.finished_ts_ms == NOON_MS + 3
    with pytest.raises(IllegalChange):
        claimed(task, NOON_MS + 10 * LEASE_MS)


@pytest.mark.parametrize(
    "settle",
    [
        lambda task: task.completed("x", now_ms=NOON_MS),
        lambda task: task.failed("x", now_ms=NOON_MS),
        lambda task: task.failed_once("x", now_ms=NOON_MS, jitter=no_jitter),
        lambda task: task.released(now_ms=NOON_MS, hint_due_ms=NOON_MS),
        lambda task: task.started(NOON_MS),
    ],
)
def test_only_a_running_task_is_settled(settle) -> None:  # type: ignore[no-untyped-def]
    for task in (new_task(IDS), claimed(new_task(IDS)).completed("x", now_ms=NOON_MS)):
        with pytest.raises(IllegalChange):
            settle(task)


def test_failures_wait_longer_each_time_and_the_third_is_final() -> None:
    task, now_ms, waits = new_task(IDS), NOON_MS, []
    for _ in range(FAILURES_MAX):
        task = claimed(task, now_ms).failed_once("boom", now_ms=now_ms, jitter=no_jitter)
        waits.append(None if task.due_at_ms is None else task.due_at_ms - now_ms)
        now_ms = task.due_at_ms or now_ms
    assert waits == [2_000, 4_000, None]
    assert (task.state, task.error, task.failures) == (TaskState.FAILED, "boom", 3)
    assert task.leases_lost == 0


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 2), (2, 4), (3, 8), (4, 16)])
def test_backoff_doubles(failures: int, wait_s: float) -> None:
    assert backoff_s(failures) == wait_s


def test_jitter_only_lengthens_the_wait() -> None:
    running = claimed(new_task(IDS))
    retried = running.failed_once("boom", now_ms=NOON_MS, jitter=lambda: 0.999)
    assert retried.due_at_ms is not None
    assert 2_000 <= retried.due_at_ms - NOON_MS <= 2_500


def test_given_back_counts_neither_as_failure_nor_as_lost_lease() -> None:
    returned = claimed(new_task(IDS)).released(now_ms=NOON_MS, hint_due_ms=NOON_MS)
    assert (returned.failures, returned.leases_lost, returned.attempt) == (0, 0, 1)
    assert returned.due_at_ms == NOON_MS + 1, "its new hint is another row than the old one"
    assert returned.lateness_ms is None


def test_given_back_later_keeps_the_first_start() -> None:
    lost = claimed(new_task(IDS))
    again = claimed(lost, NOON_MS + LEASE_MS)
    returned = again.released(now_ms=NOON_MS + LEASE_MS, hint_due_ms=NOON_MS)
    assert returned.lateness_ms == 0
    assert returned.leases_lost == 1


def test_start_is_exact_for_the_first_attempt_only() -> None:
    first = claimed(new_task(IDS)).started(NOON_MS + 4)
    assert (first.started_ts_ms, first.lateness_ms) == (NOON_MS + 4, 4)
    second = claimed(first, NOON_MS + LEASE_MS).started(NOON_MS + LEASE_MS + 9)
    assert (second.started_ts_ms, second.lateness_ms) == (NOON_MS + LEASE_MS + 9, 4)


def test_lost_leases_and_failures_are_counted_apart() -> None:
    task = claimed(new_task(IDS))
    task = claimed(task, NOON_MS + LEASE_MS)
    task = task.failed_once("boom", now_ms=NOON_MS + LEASE_MS, jitter=no_jitter)
    task = claimed(task, NOON_MS + 3 * LEASE_MS)
    assert (task.attempt, task.failures, task.leases_lost) == (3, 1, 1)


def test_each_way_to_settle_ends_its_attempt() -> None:
    held = claimed(new_task(IDS)).started(NOON_MS + 1)
    late_ms = NOON_MS + 9

    def ended(outcome: Outcome, error: str | None = None) -> tuple[Attempt, ...]:
        return (Attempt(1, "p", NOON_MS + 1, late_ms, outcome, error),)

    assert held.completed("x", now_ms=late_ms).attempts == ended(Outcome.COMPLETED)
    assert held.failed("x", now_ms=late_ms).attempts == ended(Outcome.FAILED, "x")
    retried = held.failed_once("x", now_ms=late_ms, jitter=no_jitter)
    assert retried.attempts == ended(Outcome.RETRIED, "x")
    returned = held.released(now_ms=late_ms, hint_due_ms=NOON_MS)
    assert returned.attempts == ended(Outcome.RELEASED)


def test_attempt_that_was_overtaken_lost_its_lease() -> None:
    first = claimed(new_task(IDS))
    second = claimed(first, NOON_MS + 3 * LEASE_MS)
    assert [attempt.outcome for attempt in second.attempts] == [
        Outcome.LEASE_LOST,
        Outcome.RUNNING,
    ]
    assert second.attempts[0].ended_ts_ms == NOON_MS + LEASE_MS


@pytest.mark.parametrize(
    "after_ms, ended_after_ms", [(300, 300), (-200, 0), (LEASE_MS + 5, LEASE_MS)]
)
def test_attempt_that_was_taken_over_ended_then(after_ms: int, ended_after_ms: int) -> None:
    """At the end of its lease at the latest, and not before it began, however clocks differ."""
    now_ms = NOON_MS + after_ms
    taken = claimed(new_task(IDS)).taken_over(now_ms=now_ms, claim="c2", processor="q")
    lost, running = taken.attempts
    assert (lost.outcome, lost.ended_ts_ms) == (Outcome.LEASE_LOST, NOON_MS + ended_after_ms)
    assert (running.number, running.processor, running.started_ts_ms) == (2, "q", now_ms)
    assert (taken.claim, taken.due_at_ms, taken.leases_lost) == ("c2", now_ms + LEASE_MS, 1)


def test_only_a_running_task_is_taken_over() -> None:
    with pytest.raises(IllegalChange):
        new_task(IDS).taken_over(now_ms=NOON_MS, claim="c", processor="p")


def test_attempts_kept_are_the_first_and_the_last() -> None:
    task, now_ms = new_task(IDS), NOON_MS
    for count in range(1, 200):
        task = claimed(task, now_ms).released(now_ms=now_ms, hint_due_ms=now_ms)
        numbers = [attempt.number for attempt in task.attempts]
        first = list(range(1, min(count, ATTEMPTS_KEPT) + 1))
        last = list(range(max(len(first), count - ATTEMPTS_KEPT) + 1, count + 1))
        assert numbers == first + last
        now_ms = task.due_at_ms or 0


def failed_task() -> Task:
    """After a lost lease and three failures."""
    task, now_ms = claimed(new_task(IDS)), NOON_MS + LEASE_MS
    for _ in range(FAILURES_MAX):
        task = claimed(task, now_ms).failed_once("boom", now_ms=now_ms + 1, jitter=no_jitter)
        now_ms = task.due_at_ms or now_ms
    return task


def test_failed_task_is_run_again_as_if_nothing_had_gone_wrong() -> None:
    failed = failed_task()
    assert (failed.state, failed.attempt, failed.failures) == (TaskState.FAILED, 4, 3)
    later_ms = NOON_MS + 100 * LEASE_MS
    again = failed.retried(now_ms=later_ms, token="t")
    assert (again.state, again.due_at_ms, again.token) == (TaskState.SCHEDULED, later_ms, "t")
    assert (again.attempts, again.error) == (failed.attempts, "boom")
    assert (again.failures, again.leases_lost, again.finished_ts_ms) == (0, 0, None)
    running = claimed(again, later_ms)
    assert (running.attempt, running.failures, running.leases_lost) == (5, 0, 0)
    lost = claimed(running, later_ms + LEASE_MS)
    assert (lost.attempt, lost.leases_lost) == (6, 1)
    retried = lost.failed_once("boom", now_ms=later_ms + LEASE_MS, jitter=no_jitter)
    assert (retried.state, retried.failures) == (TaskState.SCHEDULED, 1)


def test_task_is_run_again_behind_its_failure_and_not_before_its_time() -> None:
    failed = failed_task()
    early = failed.retried(now_ms=NOON_MS - 5 * LEASE_MS, token="t")
    assert early.due_at_ms == (failed.finished_ts_ms or 0) + 1 > failed.send_ts_ms


def test_only_a_failed_task_is_run_again() -> None:
    task = new_task(IDS)
    completed = claimed(task).completed("x", now_ms=NOON_MS)
    deleted = failed_task().deleted(now_ms=NOON_MS, token="t")
    again = failed_task().retried(now_ms=NOON_MS, token="t")
    for other in (task, claimed(task), completed, deleted, again):
        with pytest.raises(IllegalChange):
            other.retried(now_ms=NOON_MS, token="t")


@pytest.mark.parametrize(
    ("lost", "wait_s"),
    [(0, 0), (2, 0), (3, 5), (4, 10), (5, 20), (6, 40), (7, 80), (8, 160), (9, 320), (10, 600)],
)
def test_rest_doubles_from_the_third_lost_lease_on(lost: int, wait_s: float) -> None:
    assert rest_s(lost) == wait_s
    task, now_ms = claimed(new_task(IDS)), NOON_MS
    for _ in range(lost):
        now_ms += LEASE_MS
        task = claimed(task, now_ms)
    assert task.rests_until_ms == (now_ms + wait_s * 1000 if wait_s else None)


def test_lost_leases_of_before_it_was_run_again_ask_for_no_rest() -> None:
    task, now_ms = claimed(new_task(IDS)), NOON_MS
    for _ in range(LOST_LEASES_MAX):
        now_ms += LEASE_MS
        task = claimed(task, now_ms)
    again = task.failed("LeasesLost", now_ms=now_ms).retried(now_ms=now_ms, token="t")
    assert claimed(again, again.due_at_ms or 0).rests_until_ms is None


def test_delete_leaves_a_tombstone() -> None:
    task = new_task(IDS).deleted(now_ms=NOON_MS, token="t")
    assert (task.state, task.due_at_ms, task.token) == (TaskState.DELETED, None, "t")
    assert task.purge_at_s == NOON_MS // 1000 + TOMBSTONE_S
    with pytest.raises(IllegalChange):
        task.deleted(now_ms=NOON_MS, token="t2")


def test_running_task_is_deleted_only_after_its_lease() -> None:
    task = claimed(new_task(IDS))
    with pytest.raises(IllegalChange):
        task.deleted(now_ms=NOON_MS + LEASE_MS - 1, token="t")
    assert task.deleted(now_ms=NOON_MS + LEASE_MS, token="t").state is TaskState.DELETED


def test_shards_are_the_same_in_every_process_and_even() -> None:
    assert shard_of("3f2b6c1e-8d4a-4f6e-9b7a-0c1d2e3f4a5b", 16) == 3
    counts = [0] * 16
    for i in range(16_000):
        counts[shard_of(str(uuid.UUID(int=i * 0x9E3779B97F4A7C15)), 16)] += 1
    assert min(counts) > 800
