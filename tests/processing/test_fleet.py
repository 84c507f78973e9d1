"""Who is alive, by the heartbeats that are seen."""

from chalicelib.processing import fleet
from chalicelib.store.contract import Heartbeat
from tests.support.fakes import NOON_MS


def heartbeat(processor: str, written_ms: int = NOON_MS, interval_ms: int = 1_000) -> Heartbeat:
    return Heartbeat(
        processor=processor, kind="worker", written_ms=written_ms, interval_ms=interval_ms
    )


def look(seen: fleet.Fleet, rows: list[Heartbeat], at_s: float, later_ms: int = 0) -> list[str]:
    """Who changed, by a look that is answered at once."""
    seen.look(at_s)
    return [row.processor for row in seen.see(rows, now_s=at_s, now_ms=NOON_MS + later_ms)]


def test_processor_is_dead_when_its_beat_stands_still() -> None:
    seen = fleet.Fleet("me")
    for tenth in range(40):
        look(seen, [heartbeat("still"), heartbeat("alive", NOON_MS + tenth)], tenth / 10)
        is_fresh = tenth / 10 < 1.6
        assert ("still" in seen.live(fleet.FRESH_LATE_S)) is is_fresh
        assert seen.live() == ("alive", "me", "still")
    look(seen, [heartbeat("still"), heartbeat("alive", NOON_MS + 40)], 4.0)
    assert seen.live() == ("alive", "me")
    look(seen, [heartbeat("still"), heartbeat("alive", NOON_MS + 60)], 60.5)
    assert seen.long_dead() == ["still"]


def test_processor_that_beats_seldom_is_waited_for() -> None:
    seen = fleet.Fleet("me")
    rows = [heartbeat("idle", interval_ms=4_000)]
    for at_s, is_fresh, is_alive in (
        (0.0, True, True),
        (4.5, True, True),
        (4.7, False, True),
        (6.9, False, True),
        (7.0, False, False),
    ):
        look(seen, rows, at_s)
        assert ("idle" in seen.live(fleet.FRESH_LATE_S)) is is_fresh
        assert ("idle" in seen.live()) is is_alive
    assert seen.slow(4.0) == {"idle"}
    look(seen, [heartbeat("idle", interval_ms=1_000)], 7.1)
    assert seen.slow(4.0) == set(), "it is idle no more"
    assert seen.live() == ("idle", "me")
    look(seen, [heartbeat("idle", interval_ms=1_000)], 8.8)
    assert seen.live(fleet.FRESH_LATE_S) == ("me",)


def test_nobody_dies_because_nobody_looked() -> None:
    """The process stood still, or its own heartbeat had to wait for the store."""
    seen = fleet.Fleet("me")
    rows = [heartbeat("a"), heartbeat("b")]
    look(seen, rows, 0.0)
    assert seen.live() == ("a", "b", "me")
    assert not seen.seems_late(1.5, fleet.FRESH_LATE_S)
    assert seen.seems_late(1.6, fleet.FRESH_LATE_S), "it is time to look"
    seen.look(30.0)
    assert seen.live() == ("a", "b", "me")
    seen.see([heartbeat("a", NOON_MS + 1), rows[1]], now_s=30.2, now_ms=NOON_MS)
    assert seen.live() == ("a", "me"), "b was not heard of for 30 s"
    assert not seen.seems_late(31.0, fleet.FRESH_LATE_S), "who is dead is not asked for again"


def test_a_look_that_takes_long_is_not_held_against_who_is_looked_for() -> None:
    seen = fleet.Fleet("me")
    look(seen, [heartbeat("a")], 0.0)
    seen.look(3.0)
    seen.see([heartbeat("a")], now_s=5.5, now_ms=NOON_MS)
    assert seen.live() == ("a", "me")


def test_age_of_a_row_counts_when_it_is_first_seen() -> None:
    seen = fleet.Fleet("me")
    rows = [
        heartbeat("old", NOON_MS - 4_001),
        heartbeat("older", NOON_MS - 3_000),
        heartbeat("ahead", NOON_MS + 9),
    ]
    assert look(seen, rows, 0.0) == ["older", "ahead"]
    assert seen.live() == ("ahead", "me", "older")
    look(seen, rows, 1.1, 1_100)
    assert seen.live() == ("ahead", "me")
    look(seen, [heartbeat("old", NOON_MS - 3_001)], 1.2, 1_200)
    assert seen.live() == ("me", "old"), "it is alive: its clock is wrong"


def test_row_that_is_gone_is_dead_at_once() -> None:
    seen = fleet.Fleet("me")
    look(seen, [heartbeat("left")], 0.0)
    look(seen, [], 1.0)
    assert seen.live() == ("me",)
