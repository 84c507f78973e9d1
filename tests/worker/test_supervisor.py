"""What the supervisor keeps of processes that died."""

import asyncio
import multiprocessing
from typing import Any

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.config import Settings
from tests.support.fakes import FakeClock
from worker.child import Shared
from worker.life import Life
from worker.supervisor import (
    RESTART_WAIT_MAX_S,
    STABLE_AFTER_S,
    Slot,
    Supervisor,
    _left,
    _processes,
    _slot,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def shared(slot: Slot, *dead: Any) -> Shared:
    _, family = multiprocessing.Pipe(duplex=False)
    return Shared(
        kill_at_s=slot.kill_at_s,
        turned_s=slot.turned_s,
        claims=slot.claims,
        family=family,
        dead=dead,
    )


def test_all_that_the_dead_had_started_is_waited_for() -> None:
    async def play() -> None:
        ours, theirs = zip(*(multiprocessing.Pipe(duplex=False) for _ in range(2)), strict=True)
        waiting = asyncio.create_task(shared(_slot(0, 1), *ours).are_gone())
        for pipe in theirs:
            await asyncio.sleep(0.02)
            assert not waiting.done()
            pipe.close()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(play())


def test_what_nobody_holds_any_more_need_not_be_waited_for() -> None:
    slot = _slot(0, 1)
    (one, _), (other, held) = (multiprocessing.Pipe(duplex=False) for _ in range(2))
    _.close()
    slot.dead = [(5.0, one), (6.0, other)]
    assert _left(slot, 6.0) == [other]
    assert one.closed
    assert _left(slot, 6.0 + LEASE_MS / 1000) == [other]
    assert _left(slot, 6.1 + LEASE_MS / 1000) == [], "its leases are over"
    assert other.closed and slot.dead == []
    held.close()


def test_places_share_no_memory() -> None:
    one, other = _slot(0, 2), _slot(1, 2)
    one.claims[0] = 7
    assert other.claims[0] == 0
    assert len(one.claims) == len(other.claims) > 2 * 100


def test_deaths_are_noted_and_a_place_is_never_empty_for_long(clock: FakeClock) -> None:
    noted: list[tuple[str, int]] = []

    def record(event: str, task: object, **more: Any) -> None:
        noted.append((event, more["pid"]))

    supervisor = Supervisor(Settings(), 1, clock, Life(None, clock), None, record)
    (slot,) = supervisor._slots
    waits_s: list[float] = []
    for _ in range(6):
        slot.family, theirs = multiprocessing.Pipe(duplex=False)
        theirs.close()
        slot.process = _processes.Process(target=int)
        slot.process.start()
        slot.process.join()
        pid = slot.process.pid
        supervisor._note_death(slot, clock.monotonic_s())
        assert noted[-1] == ("death", pid)
        assert slot.process is None
        waits_s.append(slot.start_at_s - clock.monotonic_s())
    assert waits_s == sorted(waits_s)
    assert waits_s[-1] == RESTART_WAIT_MAX_S <= 0.4
    clock.tick(STABLE_AFTER_S + 1)
    assert len(slot.dead) == 6
