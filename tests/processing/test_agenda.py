"""Whose turn it is: types side by side, each with its places."""

import asyncio
from math import inf

from chalicelib.processing.agenda import BACKLOG_AFTER_MS, SEEN_FOR_S, Agenda
from chalicelib.store.contract import Hint
from chalicelib.task import TaskState
from chalicelib.task_types import Run
from tests.processing.test_processor import Bench, endless, go, ok, run_for
from tests.support.fakes import run_virtually


def hint(type: str, number: int = 0, at_ms: int = 0) -> Hint:
    return Hint(at_ms, f"{type} {number}", type, 0)


def agenda(places: int, **counts: int) -> Agenda:
    """With so many hints of each type, those of each second earlier than the next."""
    made = Agenda(places)
    for type, count in counts.items():
        for number in range(count):
            made.put(hint(type, number, number), number, 0.0)
    return made


def taken(agenda: Agenda, now_s: float = 0.0, now_ms: int = 1_000) -> list[str]:
    """Until nobody has a turn."""
    types = []
    while (type := agenda.turn(now_ms, now_s)) is not None:
        types.append(agenda.take(type).type)
    return types


def test_a_type_that_is_alone_gets_every_place_the_oldest_first() -> None:
    one = agenda(16, a=20)
    assert one.take("a") == hint("a", 0, 0)
    assert len(taken(one)) == 15
    assert (one.free, len(one)) == (0, 4)


def test_of_several_types_who_runs_least_goes_first_and_each_leaves_an_eighth() -> None:
    one = agenda(16, a=20, b=4)
    types = taken(one)
    assert types[:8].count("a") == types[:8].count("b") == 4
    assert (types.count("a"), types.count("b")) == (12, 4)
    other = agenda(16, a=20, b=0)
    other.put(hint("b"), 5_000, 0.0)
    assert taken(other) == ["a"] * 14
    assert other.turn(5_000, 0.0) == "b"


def test_room_is_left_for_a_minute_after_a_type_was_seen() -> None:
    one = agenda(16, b=1)
    one.done(one.take("b"))
    for number in range(20):
        one.put(hint("a", number), 0, SEEN_FOR_S)
    assert len(taken(one, SEEN_FOR_S)) == 14
    assert len(taken(one, SEEN_FOR_S + 2)) == 2


def test_with_one_place_types_take_turns() -> None:
    one = agenda(1, a=2, b=2)
    for _ in range(4):
        (type,) = taken(one)
        one.done(hint(type))
    assert taken(one) == []


def test_it_tells_when_to_look_again() -> None:
    one = Agenda(1)
    assert one.first_ms() == one.next_ms(0) == inf
    one.put(hint("a"), 10, 0.0)
    one.put(hint("b"), 20, 0.0)
    assert (one.first_ms(), one.next_ms(5), one.next_ms(10)) == (10, 10, 20)
    assert one.turn(9, 0.0) is None


def test_what_is_dropped_is_new_when_it_is_found_again() -> None:
    one = agenda(4, a=3, b=3)
    one.drop(lambda hint: hint.id.endswith(("0", "2")))
    assert not any(one.knows(hint(type, number, number)) for type in "ab" for number in (0, 2))
    assert all(one.knows(hint(type, 1, 1)) for type in "ab")
    assert len(one) == 2
    assert sorted(taken(one)) == ["a", "b"]


def test_a_hint_that_was_dealt_with_is_known_until_it_is_time_to_forget_it() -> None:
    one = agenda(4, a=1)
    hint_taken = one.take("a")
    one.done(hint_taken)
    one.close(hint_taken, forget_at_s=30.0)
    one.forget(29.9)
    assert one.knows(hint_taken)
    one.forget(30.0)
    assert not one.knows(hint_taken)


def test_hints_are_a_backlog_once_the_first_has_been_ready_for_long() -> None:
    one = agenda(1, a=3)
    assert one.backlog(BACKLOG_AFTER_MS) == 0
    assert one.backlog(BACKLOG_AFTER_MS + 1) == 3
    assert Agenda(1).backlog(10**15) == 0


def test_a_slow_type_holds_up_no_other() -> None:
    """400 tasks whose handlers never end, and others that come due beside them."""
    bench = Bench({"stuck": endless, "ok": ok})
    bench.add("stuck", count=400)
    beside = [bench.add("ok", delay_s=second)[0] for second in range(1, 20)]
    first, *others = beside
    go(25, bench)
    assert {bench.now(task).state for task in beside} == {TaskState.COMPLETED}
    assert (bench.now(first).lateness_ms or 0) <= 5_000, "the first place that is free"
    late = [task for task in others if task.send_ts_ms > first.send_ts_ms + 5_000]
    assert {bench.now(task).lateness_ms for task in late} == {0}


async def napping(run: Run) -> str:
    await asyncio.sleep(4.5)
    return "awake"


def test_a_type_that_is_alone_runs_as_many_at_once_as_there_are_places() -> None:
    bench = Bench({"napping": napping}, batch_size=40)
    tasks = bench.add("napping", count=80)
    run_virtually(lambda: run_for(12, bench.processor()))
    late_s = sorted(round((bench.now(task).lateness_ms or 0) / 1000, 1) for task in tasks)
    assert late_s == [0.0] * 40 + [4.5] * 40
