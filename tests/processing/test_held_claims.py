"""What a processor holds, in memory that outlives it."""

from random import Random

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.processing.held_claims import HeldClaims, memory_bytes
from chalicelib.store.contract import Hint
from tests.support.fakes import NOON_MS, Ids

IDS = Ids()
HEAD = memory_bytes(0)
ENTRY = (memory_bytes(1) - HEAD) // 4


def hint(number: int = 0, type: str = "Baz") -> Hint:
    return Hint(NOON_MS + number, IDS(), type, 5 + number)


def heir(memory: bytearray, now_s: float = 0.0) -> HeldClaims:
    """As the next process reads it."""
    return HeldClaims(memory, now_s)


def test_what_was_claimed_is_found_by_the_next_process_and_by_the_one_after_it() -> None:
    memory = bytearray(memory_bytes(2))
    one, two = hint(1), hint(2, "Längst")
    claims = [IDS(), IDS()]
    held = heir(memory)
    assert held.left == {}
    held.put(one, claims[0], 1.0)
    held.put(two, claims[1], 2.0)
    for _ in range(2):
        lost = heir(memory, 3.0).left
        assert {id: (one.hint, set(one.claims)) for id, one in lost.items()} == {
            one.id: (one, {claims[0]}),
            two.id: (two, {claims[1]}),
        }


def test_what_was_erased_is_not_found() -> None:
    memory = bytearray(memory_bytes(1))
    held = heir(memory)
    held.erase(held.put(hint(), IDS(), 0.0))
    assert heir(memory).left == {}


def test_what_was_claimed_longer_ago_than_a_lease_is_not_found() -> None:
    memory = bytearray(memory_bytes(1))
    heir(memory).put(hint(), IDS(), 5.0)
    assert heir(memory, 5.0 + LEASE_MS / 1000).left
    assert not heir(memory, 5.1 + LEASE_MS / 1000).left


def test_an_heir_keeps_what_it_inherited_until_that_is_decided() -> None:
    """It can die at any moment: then the next one finds the claims of both."""
    memory = bytearray(memory_bytes(1))
    task, dead, its_own = hint(), IDS(), IDS()
    heir(memory).put(task, dead, 0.0)
    second = heir(memory, 1.0)
    entry = second.put(task, its_own, 1.0)
    assert set(heir(memory, 1.0).left[task.id].claims) == {dead, its_own}
    second.forget(task.id)
    assert len(second.left) == 1, "not before it was taken over"
    assert second.lost_claims(task.id) == ()
    assert second.take_over() == [task]
    assert set(second.lost_claims(task.id)) == {dead}
    second.forget(task.id)
    assert second.lost_claims(task.id) == ()
    assert set(heir(memory, 1.0).left[task.id].claims) == {its_own}
    second.erase(entry)
    assert heir(memory, 1.0).left == {}


def test_the_hint_of_the_latest_claim_counts() -> None:
    memory = bytearray(memory_bytes(1))
    task, held = hint(), heir(memory)
    later = task._replace(due_at_ms=task.due_at_ms + 2_000)
    held.leave(held.put(task, IDS(), 0.0))
    held.put(later, IDS(), 2.0)
    (lost,) = heir(memory, 2.0).left.values()
    assert (lost.hint, len(lost.claims)) == (later, 2)


def test_an_unknown_outcome_stays_until_its_room_is_needed() -> None:
    memory = bytearray(memory_bytes(1))
    held, unknown = heir(memory), hint()
    held.leave(held.put(unknown, IDS(), 0.0))
    for _ in range(3):
        entry = held.put(hint(), IDS(), 0.0)
        assert unknown.id in heir(memory).left
        held.erase(entry)
        held.leave(entry)
    held.put(hint(), IDS(), 0.0)
    assert unknown.id not in heir(memory).left


def test_without_room_nothing_is_noted_and_nothing_fails() -> None:
    memory = bytearray(memory_bytes(1))
    held = heir(memory)
    entries = [held.put(hint(), IDS(), 0.0) for _ in range(6)]
    assert entries[4:] == [None, None]
    for entry in entries:
        held.erase(entry)
        held.leave(entry)
    assert held.put(hint(), IDS(), 0.0) is not None
    assert HeldClaims(bytearray(), 0.0).put(hint(), IDS(), 0.0) is None


def test_a_type_with_a_long_name_is_not_noted() -> None:
    memory = bytearray(memory_bytes(1))
    assert heir(memory).put(hint(0, "x" * 64), IDS(), 0.0) is None
    assert heir(memory).put(hint(0, "x" * 63), IDS(), 0.0) is not None


@pytest.mark.parametrize("before", ["nothing", "another claim"])
def test_a_write_that_was_cut_at_any_byte_is_no_claim(before: str) -> None:
    """A process can be killed between any two bytes, in whatever order they are written."""
    task, claim, rng = hint(), IDS(), Random(1)
    old, new = bytearray(HEAD + ENTRY), bytearray(HEAD + ENTRY)
    if before == "another claim":
        HeldClaims(old, 0.0).put(hint(), IDS(), 0.0)
    HeldClaims(new, 0.0).put(task, claim, 0.0)
    erased = old[:-4] + bytes(4)
    for cut in range(HEAD + ENTRY):
        torn = new[:cut] + erased[cut:]
        assert not HeldClaims(torn, 0.0).left, cut
        assert not HeldClaims(erased[:cut] + new[cut:], 0.0).left or cut <= HEAD, cut
    for _ in range(200):
        chosen = [rng.choice(pair) for pair in zip(new, old, strict=True)]
        torn = bytearray(chosen)
        assert torn in (old, new) or not HeldClaims(torn, 0.0).left


def test_whose_memory_it_was_is_known_to_the_next_one() -> None:
    memory, one, two = bytearray(memory_bytes(1)), IDS(), IDS()
    assert heir(memory).predecessor is None
    heir(memory).sign(one)
    assert heir(memory).predecessor == one
    first = bytes(memory)
    heir(memory).sign(two)
    assert heir(memory).predecessor == two
    for cut in range(1, HEAD):
        torn = bytearray(memory[:cut] + first[cut:])
        assert heir(torn).predecessor is None, cut
    HeldClaims(bytearray(), 0.0).sign(one)


def test_noise_is_no_claim() -> None:
    noise = bytearray(Random(1).randbytes(memory_bytes(50)))
    assert HeldClaims(noise, 0.0).left == {}
