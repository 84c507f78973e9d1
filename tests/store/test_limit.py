"""How much a node is asked at once, and who goes first: on a clock of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from chalicelib.store.alternator.wire.gate import Gate, Rank, TooLong, Turn
from chalicelib.store.alternator.wire.limit import (
    FAILURES_MAX,
    PROBE_PAUSE_MAX_S,
    TRY_AFTER_S,
    Limit,
)
from chalicelib.store.alternator.wire.outstanding import DONE_AFTER_S, Asked, Kind
from chalicelib.store.alternator.wire.transport import Budget
from tests.support.fakes import FakeClock, run_virtually

MOST = 200


def limit(start: int = 2) -> Limit:
    return Limit(0.1, start, MOST, Random(1))


def fill(limit: Limit, now_s: float, kind: Kind = Kind.CONDITIONAL) -> list[Asked]:
    """As many as there is room for."""
    asked = []
    while limit.has_room(now_s):
        asked.append(limit.ask(kind, now_s))
    return asked


def rounds(limit: Limit, latency_s: float, count: int, now_s: float = 0.0) -> float:
    """So many times as much as there is room for, each answered after this; the time then."""
    for _ in range(count):
        asked = fill(limit, now_s)
        now_s += latency_s
        for one in asked:
            limit.answered(one, now_s)
        now_s += 1.1 if limit.size < 1 else 0.001
    return now_s


def test_quick_answers_let_it_ask_twice_as_much_each_round() -> None:
    one = limit()
    rounds(one, 0.01, 6)
    assert one.size == 64
    rounds(one, 0.01, 5, 1.0)
    assert one.size == MOST


def test_half_of_what_an_answer_may_wait_ends_the_doubling() -> None:
    one = limit()
    now_s = rounds(one, 0.01, 3)
    before = one.size
    rounds(one, 0.07, 2, now_s)
    assert one.size == before + 2


def test_what_nobody_needs_is_not_grown_and_given_up_again() -> None:
    one = limit()
    for number in range(50):
        one.answered(one.ask(Kind.CONDITIONAL, number * 0.1), number * 0.1 + 0.01)
    assert one.size == 2
    now_s = rounds(one, 0.01, 5, 10.0)
    for number in range(1, 20):
        one.look(now_s + number)
    assert one.size == 2


def test_late_answers_let_it_ask_less_and_below_one_with_pauses() -> None:
    one = limit()
    now_s = rounds(one, 0.01, 6)
    rounds(one, 0.4, 12, now_s)
    assert one.size < 1
    asked = one.ask(Kind.CONDITIONAL, 100.0)
    one.answered(asked, 100.4)
    assert not one.has_room(100.41)
    assert one.has_room(100.41, is_urgent=True), "a settlement does not wait for a pause"
    assert one.has_room(101.5)


def test_who_asks_little_bears_longer_waits_so_that_shares_become_even() -> None:
    little, much = limit(1), limit(40)
    little.answered(little.ask(Kind.CONDITIONAL, 0.0), 0.01)
    much.answered(much.ask(Kind.CONDITIONAL, 0.0), 0.01)
    rounds(little, 0.16, 3, 1.0)
    rounds(much, 0.16, 3, 1.0)
    assert little.size > 1
    assert much.size < 40


def test_far_away_is_not_slow() -> None:
    one = limit()
    rounds(one, 0.2, 6)
    assert one.size == 64


def test_first_answers_of_a_kind_in_a_burst_are_not_taken_for_the_best() -> None:
    one = limit()
    one.answered(one.ask(Kind.PLAIN, 0.0), 0.002)
    now_s = 1.0
    for _ in range(8):
        for asked in fill(one, now_s):
            one.answered(asked, now_s + 0.6)
        now_s += 2.0
    assert one.size < 1


def test_what_was_given_up_counts_until_the_node_must_be_done_with_it() -> None:
    one = limit()
    asked = fill(one, 0.0)
    for each in asked:
        one.given_up(each, 0.1)
    assert not one.has_room(0.2), "the node still works on them"
    one.look(DONE_AFTER_S - 0.1)
    assert one.outstanding == 2
    one.look(DONE_AFTER_S + 0.1)
    assert one.outstanding == 0


def test_what_was_overtaken_by_its_like_needs_no_place() -> None:
    one = limit()
    lost = one.ask(Kind.CONDITIONAL, 0.0)
    one.answered(one.ask(Kind.PLAIN, 1.0), 1.01)
    assert one.outstanding == 1, "another kind tells nothing"
    one.answered(one.ask(Kind.CONDITIONAL, 1.1), 1.11)
    assert one.outstanding == 0
    assert one.waiting(1.2) == [lost], "somebody still waits for it"


def test_a_silent_node_is_tried_more_and_more_seldom() -> None:
    one = limit()
    fill(one, 0.0)
    tried = []
    for tenth in range(1, 300):
        if one.has_room(tenth / 10):
            tried.append(tenth / 10)
            one.ask(Kind.CONDITIONAL, tenth / 10)
    assert tried[0] == pytest.approx(TRY_AFTER_S, abs=0.11)
    assert len(tried) <= 6


def test_a_failing_node_is_probed_one_at_a_time_with_pauses() -> None:
    one = limit()
    for number in range(FAILURES_MAX):
        one.failed(one.ask(Kind.CONDITIONAL, number * 0.01), number * 0.01)
    assert one.is_failing
    sent, now_s = 0, 0.05
    while now_s < 30.0:
        if one.has_room(now_s):
            sent += 1
            probe = one.ask(Kind.CONDITIONAL, now_s)
            assert not one.has_room(now_s), "one at a time"
            one.failed(probe, now_s + 0.002)
        now_s += 0.01
    assert sent <= 30 / (PROBE_PAUSE_MAX_S / 2) + 8
    now_s += PROBE_PAUSE_MAX_S
    one.answered(one.ask(Kind.CONDITIONAL, now_s), now_s + 0.01)
    assert one.has_room(now_s + 0.01)


# The line


class Node:
    def __init__(self, name: str, start: int) -> None:
        self.name = name
        self.limit = limit(start)


class Nodes:
    def __init__(self, *peers: Node) -> None:
        self.peers = list(peers)

    def up(self) -> list[Node]:
        return self.peers

    def all(self) -> list[Node]:
        return self.peers


def at_gate(use: Callable[[Gate, Any], Awaitable[None]], *starts: int, **options: Any) -> None:
    async def main() -> None:
        nodes: Any = Nodes(*(Node(f"n{number}", start) for number, start in enumerate(starts)))
        gate = Gate(nodes, **options)
        try:
            await use(gate, nodes)
        finally:
            await gate.close()

    run_virtually(main)


async def enter(gate: Gate, nodes: Any, rank: Rank, kind: Kind = Kind.PLAIN) -> Turn:
    return await gate.enter(rank, nodes.up, kind=kind)


def end(gate: Gate, turn: Turn) -> None:
    turn.peer.limit.answered(turn.asked, asyncio.get_running_loop().time())
    gate.admit()


def test_who_is_urgent_goes_first_and_nobody_waits_for_ever() -> None:
    async def use(gate: Gate, nodes: Any) -> None:
        order: list[str] = []
        first = await enter(gate, nodes, Rank.READ)

        async def wait(rank: Rank) -> None:
            turn = await enter(gate, nodes, rank)
            order.append(rank.name)
            await asyncio.sleep(0.01)
            end(gate, turn)

        ranks = (Rank.CLEAN, Rank.READ, Rank.CLAIM, Rank.HEARTBEAT, Rank.SETTLE)
        waiting = [asyncio.create_task(wait(rank)) for rank in ranks]
        await asyncio.sleep(0.01)
        end(gate, first)
        await asyncio.gather(*waiting)
        assert order == ["SETTLE", "HEARTBEAT", "CLAIM", "READ", "CLEAN"]

        busy = await enter(gate, nodes, Rank.CLAIM)
        old = asyncio.create_task(wait(Rank.READ))
        await asyncio.sleep(Rank.READ.value + 1)
        young = asyncio.create_task(wait(Rank.CLAIM))
        await asyncio.sleep(0)
        end(gate, busy)
        await asyncio.gather(old, young)
        assert order[-2:] == ["READ", "CLAIM"], "what has waited is not overtaken any more"

    at_gate(use, 1)


def test_a_conditional_write_keeps_to_its_node_unless_that_is_in_trouble() -> None:
    async def use(gate: Gate, nodes: Any) -> None:
        preferred, other = nodes.peers
        busy = await enter(gate, nodes, Rank.CLAIM, Kind.CONDITIONAL)
        assert busy.peer is preferred
        read = await enter(gate, nodes, Rank.READ)
        assert read.peer is other, "a read goes anywhere"
        end(gate, read)
        waiting = asyncio.create_task(enter(gate, nodes, Rank.CLAIM, Kind.CONDITIONAL))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert (await waiting).peer is other, "its node is silent, and the other one is not"

    at_gate(use, 1, 4)


def test_a_line_that_is_too_long_turns_away_at_once() -> None:
    async def use(gate: Gate, nodes: Any) -> None:
        await enter(gate, nodes, Rank.VIEW)
        for _ in range(20):
            await asyncio.sleep(0.1)
        began_s = asyncio.get_running_loop().time()
        refused = 0
        for _ in range(10):
            try:
                await asyncio.wait_for(enter(gate, nodes, Rank.VIEW), 0.01)
            except TooLong as error:
                refused += 1
                assert error.wait_s > 1.0
            except TimeoutError:
                pass
        assert refused >= 9
        assert asyncio.get_running_loop().time() - began_s < 0.1

    at_gate(use, 1, line_max_s=1.0)


def test_claims_stop_for_a_store_that_would_answer_too_late() -> None:
    async def use(gate: Gate, nodes: Any) -> None:
        (node,) = nodes.peers
        assert gate.may_claim(0, 0)
        assert not gate.may_claim(2, 0), "no more at once than there are places"
        for _ in range(3):
            node.limit.answered(node.limit.ask(Kind.CONDITIONAL, 0.0), 1.0)
        assert gate.may_claim(0, 0)
        assert not gate.may_claim(0, 100), "they could not be settled"
        for _ in range(10):
            node.limit.answered(node.limit.ask(Kind.CONDITIONAL, 1.0), 4.0)
        assert not gate.may_claim(0, 0)

    at_gate(use, 2)


def test_one_failing_node_of_two_does_not_make_the_store_slow() -> None:
    async def use(gate: Gate, nodes: Any) -> None:
        bad, good = nodes.peers
        for _ in range(FAILURES_MAX):
            bad.limit.failed(bad.limit.ask(Kind.CONDITIONAL, 0.0), 0.0)
        assert bad.limit.is_failing
        assert not gate.pressure().is_slow
        for _ in range(FAILURES_MAX):
            good.limit.failed(good.limit.ask(Kind.CONDITIONAL, 0.0), 0.0)
        assert gate.pressure().is_failing

    at_gate(use, 2, 2)


def test_what_is_sent_again_is_a_share_of_what_succeeds() -> None:
    clock = FakeClock()
    budget = Budget(clock)
    assert sum(budget.take() for _ in range(200)) == Budget.MOST
    for _ in range(20):
        budget.earn()
    assert sum(budget.take() for _ in range(200)) == 20 * Budget.SHARE
    clock.tick(5)
    assert sum(budget.take() for _ in range(200)) == 5 * Budget.A_SECOND
