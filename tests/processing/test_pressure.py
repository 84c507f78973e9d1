"""What processors do about a store that is slow or away: the memory store, told what to say."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from chalicelib.api.explain import Reason, explain
from chalicelib.attempts import LEASE_MS
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.processing.fleet import FRESH_LATE_S, Fleet
from chalicelib.processing.store_watch import TELL_AFTER_S, StoreWatch
from chalicelib.store.contract import NO_PRESSURE, Heartbeat, Hint, Pressure, Refused
from chalicelib.store.memory import MemoryQueue
from chalicelib.store.ownership import DEAD_LATE_S
from chalicelib.task import Task, TaskState
from local.evidence import Evidence, Slow
from local.judge import judge
from tests.processing.test_processor import SHARDS, Bench, go, ok, run_for
from tests.support.fakes import NOON_MS, FakeClock, Ids, new_task, run_virtually

SLOW = Pressure(requests=1.5, latency_s=0.2, delay_s=0.15, is_reduced=True)


@dataclass
class PressedQueue(MemoryQueue):
    """A memory queue whose store is as it is told to be; notes when it was asked what.

    claims: what the next claims raise, None for those that go through.
    """

    bench: Bench
    seen: Pressure = NO_PRESSURE
    may: bool = True
    claims: list[Exception | None] = field(default_factory=list)
    asked: list[tuple[str, float]] = field(default_factory=list)
    away: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.bench.tables, shards=SHARDS)

    def note(self, what: str) -> None:
        self.asked.append((what, asyncio.get_running_loop().time()))
        if self.away:
            raise StoreUnavailable

    def times(self, what: str) -> list[float]:
        return [at_s for asked, at_s in self.asked if asked == what]

    def may_claim(self, claiming: int, held: int) -> bool:
        return self.may

    def pressure(self) -> Pressure:
        return self.seen

    async def claim(self, hint: Hint, **how: Any) -> Task | Refused:
        self.note("claim")
        if self.claims and (error := self.claims.pop(0)) is not None:
            raise error
        return await super().claim(hint, **how)

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.note("heartbeat")
        await super().put_heartbeat(heartbeat)

    async def due(self, shard: int, **how: Any) -> Any:
        self.note("due")
        return await super().due(shard, **how)

    async def flush(self, *, age_s: float = 0.0) -> None:
        self.note("flush")


def test_claim_of_unknown_outcome_is_not_made_again_before_its_lease_is_over() -> None:
    bench = Bench({"ok": ok})
    queue = PressedQueue(bench, claims=[StoreUnavailable("no answer")])
    (task,) = bench.add("ok", delay_s=1.0)
    go(15, bench, queue=queue)
    first, second = queue.times("claim")
    assert second - first >= LEASE_MS / 1000 - 0.01
    assert bench.now(task).state is TaskState.COMPLETED


def test_claim_that_was_not_sent_waits_with_the_others_and_costs_nothing() -> None:
    bench = Bench({"ok": ok})
    queue = PressedQueue(bench, claims=[StoreBusy("too late"), StoreBusy("too late")])
    (task,) = bench.add("ok", delay_s=1.0)
    go(5, bench, queue=queue)
    done = bench.now(task)
    assert (done.state, done.attempt) == (TaskState.COMPLETED, 1)
    assert done.lateness_ms is not None
    assert done.lateness_ms < 200


def test_nothing_is_claimed_that_the_store_has_no_room_for() -> None:
    bench = Bench({"ok": ok})
    queue = PressedQueue(bench, may=False)
    bench.add("ok", delay_s=1.0, count=50)

    async def main() -> None:
        asyncio.get_running_loop().call_later(4, setattr, queue, "may", True)
        await run_for(8, bench.processor(queue=queue))

    run_virtually(main)
    assert len(queue.times("claim")) == 50
    assert min(queue.times("claim")) >= 4
    assert len(bench.lines) == 50


def test_a_slow_store_is_asked_for_less() -> None:
    """Heartbeats come every 5 s, and say so; deletions wait until there are many."""
    bench = Bench({"ok": ok})
    quiet, pressed = PressedQueue(bench), PressedQueue(bench, seen=SLOW)
    bench.add("ok", delay_s=9.0)
    go(10, bench, queue=quiet)
    go(10, bench, queue=pressed)
    assert len(quiet.times("heartbeat")) >= 9
    assert 2 <= len(pressed.times("heartbeat")) <= 3
    assert len(quiet.times("flush")) >= 15
    assert len(pressed.times("flush")) <= 3


def test_an_owner_that_beats_is_not_helped_while_the_store_is_slow() -> None:
    for seen, helps in ((NO_PRESSURE, True), (SLOW, False)):
        bench = Bench({"ok": ok})
        owner = PressedQueue(bench, may=False, seen=seen)
        helper = PressedQueue(bench, seen=seen)
        bench.add("ok", count=40)
        run_virtually(
            lambda owner=owner, helper=helper, bench=bench: run_for(  # type: ignore[misc]
                20, bench.processor("a", queue=owner), bench.processor("b", queue=helper)
            )
        )
        own = len(helper.times("claim"))
        assert (own == 40) is helps, (
            "what is overdue by a lease is for all, unless the store is slow"
        )
        assert own > 0


def test_hints_of_a_shard_that_another_one_owns_now_are_left_to_it() -> None:
    bench = Bench({"ok": ok})
    first, second = PressedQueue(bench, may=False), PressedQueue(bench)
    bench.add("ok", delay_s=1.0, count=60)

    async def main() -> None:
        one = asyncio.create_task(run_for(14, bench.processor("a", queue=first)))
        await asyncio.sleep(4)
        two = asyncio.create_task(run_for(9, bench.processor("b", queue=second)))
        await asyncio.sleep(3)
        first.may = True
        await asyncio.gather(one, two)

    run_virtually(main)
    assert len(bench.lines) == 60
    assert len(first.times("claim")) + len(second.times("claim")) == 60, "none was claimed twice"
    assert len(second.times("claim")) > 10


def test_a_store_that_is_away_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"ok": ok})
    go(29, bench, queue=PressedQueue(bench, away=True))
    told = [record for record in caplog.records if record.__dict__.get("action")]
    assert [record.__dict__["action"] for record in told] == ["store_unavailable"]


# The fleet while nothing can be seen


def row(name: str, written_ms: int) -> Heartbeat:
    return Heartbeat(processor=name, kind="worker", written_ms=written_ms)


def test_nobody_is_dead_because_nothing_could_be_seen() -> None:
    fleet = Fleet("me")
    rows = [row("other", NOON_MS)]
    fleet.look(0.0)
    fleet.see(rows, now_s=0.0, now_ms=NOON_MS)
    fleet.look(1.0)
    assert fleet.live() == ("me", "other"), "the look of 1.0 has not been answered"
    fleet.look(6.0)
    fleet.see(rows, now_s=31.0, now_ms=NOON_MS + 31_000)
    assert fleet.live() == ("me", "other"), "it could not send a heartbeat either"
    assert fleet.live(FRESH_LATE_S) == ("me", "other")
    dead_s = 31.0 + DEAD_LATE_S + 1.0
    fleet.look(dead_s)
    fleet.see(rows, now_s=dead_s, now_ms=NOON_MS + round(dead_s * 1000))
    assert fleet.live() == ("me",), "but now it could"


# Telling


def test_slowness_is_told_once_when_it_begins_and_once_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, noted = FakeClock(), list[str]()
    watch = StoreWatch(clock, lambda event, task, **more: noted.append(event))
    caplog.set_level(logging.INFO)
    for _ in range(10):
        watch.look(SLOW, waiting=30)
        clock.tick(1.0)
    assert watch.has_waiting
    for _ in range(5):
        watch.look(NO_PRESSURE, waiting=0)
        clock.tick(1.0)
    assert not watch.has_waiting
    assert noted == ["slow", "keeps_up"]
    assert [record.__dict__["action"] for record in caplog.records] == [
        "store_slow",
        "store_keeps_up",
    ]
    assert "30 tasks wait" in caplog.records[0].getMessage()


@pytest.mark.parametrize(("pressure", "waiting"), [(SLOW, 0), (NO_PRESSURE, 30)])
def test_slow_without_need_or_busy_without_slowness_is_not_told(
    pressure: Pressure, waiting: int
) -> None:
    clock, noted = FakeClock(), list[str]()
    watch = StoreWatch(clock, lambda event, task, **more: noted.append(event))
    for _ in range(10):
        watch.look(pressure, waiting)
        clock.tick(TELL_AFTER_S)
    assert noted == []


def test_explain_tells_that_the_store_is_slow() -> None:
    task = new_task(Ids())
    beating = Heartbeat(processor="p", kind="worker", written_ms=NOON_MS + 9_000, held_back_s=8)
    told = explain(
        task,
        now_ms=NOON_MS + 9_000,
        shard=0,
        heartbeats=[beating],
        has_hint=True,
        types={"Baz"},
    )
    assert told.reason is Reason.STORE_SLOW
    assert "the oldest for 8.0 s" in told.message


def test_verify_counts_the_times_in_which_the_store_was_slow() -> None:
    slow = [
        Slow("slow", 1, 10.0),
        Slow("slow", 2, 12.0),
        Slow("keeps_up", 1, 20.0),
        Slow("keeps_up", 2, 30.0),
        Slow("slow", 1, 40.0),
        Slow("keeps_up", 1, 45.0),
    ]
    findings = judge(Evidence(events=[], tasks={}, now_ms=NOON_MS, slow=slow))
    assert findings.slow_s == [20.0, 5.0]
    assert findings.line().endswith("store slow 2 x, 25 s")
