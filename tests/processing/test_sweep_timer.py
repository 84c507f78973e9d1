"""Who sweeps when: the pace is that of the whole fleet."""

import asyncio
from dataclasses import dataclass, field
from email.utils import formatdate

import pytest

from chalicelib.store.clock import StoreClock, agreed_ms
from chalicelib.store.memory import MemoryQueue
from tests.processing.test_processor import SHARDS, Bench, ok, run_for
from tests.support.fakes import NOON_MS, FakeClock, run_virtually

RATE = 500


@dataclass
class Sweeps:
    """What was asked of the queues: by processor, and when. most: so many rows each time. hangs:
    whether the slow sweep never ends."""

    slow: list[tuple[str, float]] = field(default_factory=list)
    overdue: list[tuple[str, float]] = field(default_factory=list)
    most: set[int] = field(default_factory=set)
    hangs: bool = False


class Watched(MemoryQueue):
    """The queue of one processor, whose sweeps are noted."""

    def __init__(self, bench: Bench, name: str, sweeps: Sweeps) -> None:
        super().__init__(bench.tables, shards=SHARDS)
        self.name = name
        self.sweeps = sweeps

    async def sweep_overdue(self, *, now_ms: int) -> int:
        self.sweeps.overdue.append((self.name, asyncio.get_running_loop().time()))
        return await super().sweep_overdue(now_ms=now_ms)

    async def sweep_some(self, most: int, *, now_ms: int) -> int:
        self.sweeps.slow.append((self.name, asyncio.get_running_loop().time()))
        self.sweeps.most.add(most)
        if self.sweeps.hangs:
            await asyncio.sleep(1e6)
        return await super().sweep_some(most, now_ms=now_ms)


def swept(seconds: float, *names: str, offset_s: int = 0, hangs: bool = False) -> Sweeps:
    """offset_s: how far into an hour the clocks are at the start."""
    bench, sweeps = Bench({"ok": ok}), Sweeps(hangs=hangs)

    async def main() -> None:
        processors = [
            bench.processor(name, queue=Watched(bench, name, sweeps), offset_ms=offset_s * 1000)
            for name in names
        ]
        await run_for(seconds, *processors)

    run_virtually(main)
    return sweeps


def test_one_of_the_fleet_sweeps_slowly_once_a_second() -> None:
    sweeps = swept(300, "a", "b", "c")
    assert len({name for name, _ in sweeps.slow}) == 1, "also when they start"
    assert 280 <= len(sweeps.slow) <= 291
    assert sweeps.most == {RATE}


def test_another_one_takes_its_turn_the_next_hour() -> None:
    sweeps = swept(200, "a", "b", "c", offset_s=3_600 + 3_500)
    before, after = (
        {name for name, at_s in sweeps.slow if low_s < at_s < low_s + 80} for low_s in (15, 102)
    )
    assert len(before) == len(after) == 1
    assert before != after


def test_a_slow_sweep_that_hangs_holds_up_nothing() -> None:
    sweeps = swept(600, "a", "b", hangs=True)
    assert set(range(1, 10)) <= {at_s // 60 for _, at_s in sweeps.overdue}
    assert len(sweeps.slow) <= 2


def test_each_minute_somebody_sweeps_what_is_overdue() -> None:
    sweeps = swept(600, "a", "b")
    minutes = {at_s // 60 for _, at_s in sweeps.overdue}
    assert set(range(1, 10)) <= minutes


@pytest.mark.parametrize("off_s", [365 * 86_400, -365 * 86_400])
def test_what_goes_goes_by_the_earlier_clock(off_s: int) -> None:
    """Neither a node whose clock is ahead nor a machine makes anything look old."""
    machine = FakeClock()
    clock = StoreClock(machine)
    assert agreed_ms(machine) == agreed_ms(clock) == NOON_MS
    date = formatdate(NOON_MS / 1000 + off_s, usegmt=True).encode()
    clock.node("n").hear(date, machine.monotonic_s(), is_exact=True)
    assert abs(clock.now_ms() - (NOON_MS + off_s * 1000)) < 2_000, "it is followed"
    assert abs(agreed_ms(clock) - (NOON_MS + min(0, off_s) * 1000)) < 2_000
