"""The store's clock as answers tell it, to machines whose own clock is wrong."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random

import pytest

from chalicelib.store.clock import StoreClock
from tests.support.fakes import NOON_MS, LoopClock
from tests.support.fleets import DUE_S, Site

CLOSE_MS = 100
ROUNDING_MS = 2


@dataclass
class Machine:
    """Its two clocks. wall_off_ms: how far the wall clock is wrong. asleep_s: what the monotonic
    one missed."""

    true_s: float = 0.25
    wall_off_ms: float = 0.0
    asleep_s: float = 0.0

    def now_ms(self) -> int:
        return int(NOON_MS + self.true_s * 1000 + self.wall_off_ms)

    def monotonic_s(self) -> float:
        return 500 + self.true_s - self.asleep_s


@dataclass
class Node:
    """A node. off_ms: how far its clock is wrong. phase_s: when in each second it renews its Date;
    None: it writes each anew."""

    name: str = "a"
    off_ms: float = 0.0
    phase_s: float | None = None

    def date(self, true_s: float) -> bytes:
        shown_s = NOON_MS / 1000 + true_s + self.off_ms / 1000
        if self.phase_s is not None:
            shown_s = (shown_s - self.phase_s) // 1 + self.phase_s
        return formatdate(shown_s // 1, usegmt=True).encode()


@dataclass
class World:
    """A machine that asks nodes, and what it makes of their answers."""

    nodes: list[Node] = field(default_factory=lambda: [Node()])
    machine: Machine = field(default_factory=Machine)
    rng: Random = field(default_factory=lambda: Random(5))

    def __post_init__(self) -> None:
        self.clock = StoreClock(self.machine)

    def error_ms(self) -> float:
        """How far the corrected clock is ahead of the true time."""
        return self.clock.now_ms() - (NOON_MS + self.machine.true_s * 1000)

    def ask(self, took_s: float = 0.002) -> None:
        """Each node once."""
        for node in self.nodes:
            sent_s = self.machine.monotonic_s()
            self.machine.true_s += took_s / 2
            date = node.date(self.machine.true_s)
            self.machine.true_s += took_s / 2
            self.clock.node(node.name).hear(date, sent_s, is_exact=node.phase_s is None)

    def talk(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        """As a processor does that has nothing to run."""
        until_s = self.machine.true_s + seconds
        while self.machine.true_s < until_s:
            self.ask()
            each()
            self.machine.true_s += 0.8 * self.rng.uniform(0.97, 1.0)


def is_close(world: World) -> None:
    assert abs(world.error_ms()) <= CLOSE_MS


def test_without_answers_it_is_the_wall_clock() -> None:
    world = World(machine=Machine(wall_off_ms=7_000))
    assert world.clock.now_ms() == world.machine.now_ms()
    assert world.clock.earliest_ms() == world.machine.now_ms()
    world.machine.wall_off_ms = -7_000
    assert world.clock.now_ms() == world.machine.now_ms()


def test_a_right_clock_is_left_as_it_is() -> None:
    world = World()

    def check() -> None:
        assert world.clock.now_ms() == world.machine.now_ms()

    world.talk(600, check)


@pytest.mark.parametrize("by_ms", [30_000, 500, -500, -30_000])
def test_a_jump_changes_nothing_from_the_next_reading_on(by_ms: int) -> None:
    world = World()
    world.talk(30)
    world.machine.wall_off_ms = by_ms
    assert abs(world.error_ms()) <= CLOSE_MS
    world.talk(600, lambda: is_close(world))


@pytest.mark.parametrize("off_ms", [900, -900, 60_000, -60_000])
def test_an_offset_is_corrected(off_ms: int) -> None:
    world = World(machine=Machine(wall_off_ms=off_ms))
    world.talk(20)
    assert abs(world.error_ms()) <= CLOSE_MS


def test_looks_in_time_tell_within_a_few_seconds() -> None:
    world = World(machine=Machine(wall_off_ms=900))
    world.ask()
    looks = 0
    while (look_in_s := world.clock.node("a").look_in_s()) is not None:
        world.machine.true_s += look_in_s
        world.ask()
        looks += 1
    assert looks <= 6
    assert -ROUNDING_MS <= world.error_ms() <= CLOSE_MS


def test_a_clock_set_right_is_believed_at_once() -> None:
    for off_ms in (30_000, -30_000, 900, -900):
        world = World(machine=Machine(wall_off_ms=off_ms))
        world.talk(60)
        world.machine.wall_off_ms = 0
        assert abs(world.error_ms()) <= CLOSE_MS
        world.talk(2)
        assert abs(world.error_ms()) <= CLOSE_MS


@pytest.mark.parametrize("a_second_ms", [10, -10, 0.2])
def test_a_wall_clock_that_drifts_is_held(a_second_ms: float) -> None:
    world = World()

    def drift() -> None:
        world.machine.wall_off_ms = world.machine.true_s * a_second_ms
        if world.machine.true_s > 20:
            assert abs(world.error_ms()) <= CLOSE_MS

    world.talk(600, drift)


def test_a_jump_while_nothing_is_asked_changes_nothing() -> None:
    world = World()
    world.talk(30)
    world.machine.true_s += 600
    world.machine.wall_off_ms = 60_000
    assert abs(world.error_ms()) <= 400, "two clocks that drift apart"
    assert world.clock.earliest_ms() <= NOON_MS + world.machine.true_s * 1000
    world.talk(20)
    assert abs(world.error_ms()) <= CLOSE_MS


def test_a_look_after_a_long_silence_changes_nothing() -> None:
    world = World()
    world.talk(30)
    world.machine.true_s += 600
    now_ms = world.clock.now_ms()
    assert world.clock.node("a").look_in_s() is not None
    assert world.clock.now_ms() == now_ms


def test_a_machine_that_slept_is_never_early_and_right_after_an_answer() -> None:
    world = World()
    world.talk(30)
    world.machine.true_s += 3_600
    world.machine.asleep_s = 3_600
    assert world.error_ms() <= 0
    assert world.clock.earliest_ms() <= NOON_MS + world.machine.true_s * 1000
    world.ask()
    assert abs(world.error_ms()) <= ROUNDING_MS


@pytest.mark.parametrize("by_ms", [5_000, -5_000])
def test_a_store_whose_clock_is_set_is_followed(by_ms: int) -> None:
    world = World()
    world.talk(60)
    world.nodes[0].off_ms = by_ms
    world.talk(20)
    assert abs(world.error_ms() - by_ms) <= CLOSE_MS


@pytest.mark.parametrize("wrong_ms", [-40_000, 700, 40_000])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_node_with_a_wrong_clock_is_outvoted(count: int, wrong_ms: int) -> None:
    nodes = [Node(str(number)) for number in range(count)]
    nodes[0].off_ms = wrong_ms
    world = World(nodes)
    world.talk(20)
    assert abs(world.error_ms()) <= ROUNDING_MS
    if count > 2:
        world.machine.wall_off_ms = 60_000
        world.talk(20)
        assert abs(world.error_ms()) <= CLOSE_MS


def test_a_node_that_is_gone_has_no_vote() -> None:
    world = World([Node("a"), Node("b", off_ms=-40_000)])
    world.machine.wall_off_ms = -40_000
    world.talk(20)
    assert world.error_ms() <= -30_000
    world.nodes.pop()
    world.talk(150)
    assert abs(world.error_ms()) <= CLOSE_MS


@pytest.mark.parametrize("phase_s", [0.0, 0.1, 0.5, 0.9])
def test_dates_that_may_be_old_correct_what_they_can(phase_s: float) -> None:
    """A right clock is left alone; one that is ahead is at most a second, one behind too."""
    world = World([Node(phase_s=phase_s)])

    def check(least_ms: float, most_ms: float) -> None:
        assert least_ms - ROUNDING_MS <= world.error_ms() <= most_ms + ROUNDING_MS

    world.talk(60, lambda: check(0, 0))
    world.machine.wall_off_ms = 30_000
    check(0, 20)
    world.talk(600)
    check(0, 1_000 + CLOSE_MS)
    world.machine.wall_off_ms = -30_000
    check(-1_000 - CLOSE_MS, 0)
    world.machine.wall_off_ms = 0
    world.talk(60)
    check(-1_000, 0)


def test_where_dates_tell_nothing_a_jump_ahead_is_followed_slowly() -> None:
    world = World([Node(phase_s=0.2)])
    world.talk(60)
    world.machine.wall_off_ms = 500
    assert world.error_ms() <= 1
    world.talk(20)
    assert world.error_ms() <= 130
    world.talk(100)
    assert world.error_ms() >= 490, "somebody may have set it right"


def test_a_late_answer_is_no_mistake() -> None:
    world = World()
    world.talk(30)
    world.machine.wall_off_ms = 60_000
    sent_s, date = world.machine.monotonic_s(), world.nodes[0].date(world.machine.true_s)
    world.talk(9)
    world.clock.node("a").hear(date, sent_s, is_exact=True)
    assert abs(world.error_ms()) <= CLOSE_MS
    world.ask()
    assert abs(world.error_ms()) <= CLOSE_MS


@pytest.mark.parametrize("seed", range(20))
def test_the_least_is_never_too_much(seed: int) -> None:
    """Whatever the wall clock does, however long answers take, and though clocks drift a little."""
    rng = Random(seed)
    world = World([Node(phase_s=rng.choice([None, 0.3]))])
    drift = rng.choice([-0.0002, 0.0002])
    for _ in range(600):
        world.machine.true_s += rng.choice([0.001, 0.1, 0.8, 30.0]) * rng.random()
        world.machine.asleep_s = drift * world.machine.true_s
        if rng.random() < 0.05:
            world.machine.wall_off_ms = rng.choice([0, rng.uniform(-70_000, 70_000)])
        world.ask(rng.choice([0.001, 0.05, 3.0]) * rng.random())
        true_ms = NOON_MS + world.machine.true_s * 1000
        assert world.clock.earliest_ms() <= true_ms
        assert world.clock.earliest_ms() <= world.clock.now_ms()


def test_garbage_in_place_of_a_date_tells_nothing() -> None:
    world = World()
    for date in (b"", b"nonsense", b"\xff", b"Tue, 99 Foo 2026 00:00:00 GMT"):
        world.clock.node("a").hear(date, world.machine.monotonic_s(), is_exact=True)
    assert world.clock.now_ms() == world.machine.now_ms()
    assert world.clock.node("a").look_in_s() is None


def test_a_clock_that_is_off_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    world.talk(10)
    assert caplog.records == []
    world.machine.wall_off_ms = 5_000
    world.talk(70)
    told = [vars(record) for record in caplog.records]
    assert [one["action"] for one in told] == ["clock_off"] * 3
    assert all(4_900 <= one["offset_ms"] <= 5_000 for one in told)
    world.machine.wall_off_ms = 0
    world.talk(10)
    assert [vars(one)["action"] for one in caplog.records[3:]] == ["clock_agrees"]


# Processors


class Jumping(LoopClock):
    """Wrong by so much from that second on."""

    def __init__(self, by_ms: int, at_s: float) -> None:
        super().__init__()
        self._by_ms, self._at_s = by_ms, at_s

    def now_ms(self) -> int:
        is_off = self.monotonic_s() >= self._at_s
        return super().now_ms() + (self._by_ms if is_off else 0)


@pytest.mark.parametrize("at_s", [0.0, DUE_S - 1.5, DUE_S - 0.5])
@pytest.mark.parametrize("by_ms", [30_000, 900, 500, -500, -30_000])
def test_no_task_starts_early_nor_late_when_the_wall_clock_jumps(by_ms: int, at_s: float) -> None:
    site = Site(new_clock=lambda: Jumping(by_ms, at_s))
    site.add(50)
    site.run(2, lambda: site.until_done(30))
    assert len(site.lines) == 50
    assert min(site.starts_s) >= DUE_S - CLOSE_MS / 1000
    assert max(site.starts_s) <= DUE_S + 1.5
    if by_ms == 30_000 and at_s:
        assert min(site.starts_s) >= DUE_S - 0.025
    assert {task.attempt for task in site.tasks()} == {1}


def test_no_task_starts_early_beside_a_node_with_a_wrong_clock() -> None:
    site = Site(node_count=3, new_clock=lambda: Jumping(30_000, DUE_S - 1))
    site.nodes[1].clock_off_ms = 20_000
    site.add(50)
    site.run(2, lambda: site.until_done(30))
    assert min(site.starts_s) >= DUE_S - CLOSE_MS / 1000
    assert max(site.starts_s) <= DUE_S + 1.5
