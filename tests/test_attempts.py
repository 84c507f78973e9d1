"""The attempts of a task, apart from its state."""

from chalicelib.attempts import (
    ATTEMPTS_KEPT,
    LEASE_MS,
    Attempt,
    Attempts,
    Outcome,
    last_lease_lost_ms,
    start_ms,
    with_end,
    with_next,
    with_start,
)
from tests.support.fakes import NOON_MS


def ended(outcome: Outcome, *starts_ms: int) -> Attempts:
    attempts: Attempts = ()
    for started_ms in starts_ms:
        attempts = with_end(with_next(attempts, "p", started_ms), outcome, started_ms + 1)
    return attempts


def test_attempts_are_counted_from_one() -> None:
    first = with_next((), "a", NOON_MS)
    assert first == (Attempt(1, "a", NOON_MS),)
    second = with_next(with_end(first, Outcome.RETRIED, NOON_MS + 5, "boom"), "b", NOON_MS + 9)
    assert second == (
        Attempt(1, "a", NOON_MS, NOON_MS + 5, Outcome.RETRIED, "boom"),
        Attempt(2, "b", NOON_MS + 9),
    )


def test_start_moves_the_last_one_only() -> None:
    attempts = with_next(ended(Outcome.RETRIED, NOON_MS), "b", NOON_MS + 50)
    assert [one.started_ts_ms for one in with_start(attempts, NOON_MS + 53)] == [
        NOON_MS,
        NOON_MS + 53,
    ]


def test_what_was_released_unrun_has_no_start() -> None:
    attempts = ended(Outcome.RELEASED, NOON_MS, NOON_MS + 10)
    assert start_ms(attempts) is None
    assert start_ms(with_next(attempts, "p", NOON_MS + 20)) == NOON_MS + 20


def test_last_lost_lease_is_the_one_that_ended_last() -> None:
    attempts = ended(Outcome.RETRIED, NOON_MS)
    assert last_lease_lost_ms(attempts) is None
    for second in (20, 40):
        attempts = with_next(attempts, "p", NOON_MS + second * 1000)
    assert last_lease_lost_ms(attempts) == NOON_MS + 20_000 + LEASE_MS


def test_the_first_and_the_last_are_kept() -> None:
    attempts = ended(Outcome.RETRIED, *range(NOON_MS, NOON_MS + 100))
    numbers = [one.number for one in attempts]
    assert numbers == [*range(1, ATTEMPTS_KEPT + 1), *range(101 - ATTEMPTS_KEPT, 101)]
