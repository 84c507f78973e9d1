"""The worker's sign of life."""

from pathlib import Path

import pytest

from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting
from tests.support.fakes import FakeClock
from worker.life import FRESH_S, Life, is_fresh
from worker.supervisor import STABLE_AFTER_S, TURNS_WITHIN_S, Supervisor, _processes


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_life_is_fresh_for_a_while_and_after_each_sign(clock: FakeClock, tmp_path: Path) -> None:
    life = Life.in_file(str(tmp_path / "life"), clock)
    assert not is_fresh(tmp_path / "life", clock)
    life.show()
    clock.tick(FRESH_S)
    assert is_fresh(tmp_path / "life", clock)
    clock.tick(0.1)
    assert not is_fresh(tmp_path / "life", clock)
    life.show()
    assert is_fresh(tmp_path / "life", clock)


def test_a_sign_of_before_the_clock_began_anew_is_none(clock: FakeClock, tmp_path: Path) -> None:
    (tmp_path / "life").write_text(f"{clock.monotonic_s() + 5:020.3f}")
    assert not is_fresh(tmp_path / "life", clock)


def test_no_file_is_no_life(clock: FakeClock, tmp_path: Path) -> None:
    Life.in_file(None, clock).show()
    assert not is_fresh(tmp_path / "none", clock)


def test_a_file_that_cannot_be_written_is_named(clock: FakeClock, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"--life .*/no/life: it cannot be written"):
        Life.in_file(str(tmp_path / "no" / "life"), clock)


def test_a_process_that_does_not_turn_or_was_just_replaced_is_not_well(clock: FakeClock) -> None:
    supervisor = Supervisor(Settings(), 1, clock, Life(None, clock))
    (slot,) = supervisor._slots
    assert not supervisor._is_well(slot), "nothing runs"
    slot.process = _processes.Process()
    slot.started_s = clock.monotonic_s()
    assert supervisor._is_well(slot)
    clock.tick(TURNS_WITHIN_S)
    assert not supervisor._is_well(slot)
    slot.turned_s.value = clock.monotonic_s()
    assert supervisor._is_well(slot)
    slot.started_s, slot.restarts = clock.monotonic_s(), 1
    assert not supervisor._is_well(slot)
    clock.tick(STABLE_AFTER_S)
    slot.turned_s.value = clock.monotonic_s()
    assert supervisor._is_well(slot)
