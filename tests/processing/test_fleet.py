"""Who is alive, by the heartbeats that are seen."""

from chalicelib.processing import fleet
from chalicelib.store.contract import Heartbeat
from tests.support.fakes import NOON_MS


def heartbeat(processor: str, written_ms: int = NOON_MS, interval_ms: int = 1_000) -> Heartbeat:
    return Heartbeat(
        processor=processor, kind="worker", written_ms=written_ms, interval_ms=interval_ms
    )


def test_processor_is_dead_when_its_beat_stands_still() -> None:
    seen = fleet.Fleet("me")
    for second in range(6):
        rows = [heartbeat("still"), heartbeat("alive", NOON_MS + second)]
        seen.see(rows, now_s=float(second), now_ms=NOON_MS)
    assert seen.live(3.9) == ("alive", "me", "still")
    assert seen.live(4.0) == ("alive", "me")
    assert seen.live(1.5, fleet.FRESH_LATE_S) == ("alive", "me", "still")
    assert seen.live(1.7, fleet.FRESH_LATE_S) == ("alive", "me")
    assert seen.long_dead(60.5) == ["still"]


def test_processor_that_beats_seldom_is_waited_for() -> None:
    seen = fleet.Fleet("me")
    seen.see([heartbeat("idle", interval_ms=4_000)], now_s=0.0, now_ms=NOON_MS)
    assert seen.live(4.5, fleet.FRESH_LATE_S) == ("idle", "me")
    assert seen.live(4.7, fleet.FRESH_LATE_S) == ("me",)
    assert seen.live(6.9) == ("idle", "me")
    assert seen.live(7.0) == ("me",)
    assert seen.slow(4.0) == {"idle"}
    seen.see([heartbeat("idle", interval_ms=1_000)], now_s=5.0, now_ms=NOON_MS)
    assert seen.slow(4.0) == set(), "it is idle no more"
    assert seen.live(6.7, fleet.FRESH_LATE_S) == ("me",)


def test_age_of_a_row_counts_when_it_is_first_seen() -> None:
    seen = fleet.Fleet("me")
    rows = [
        heartbeat("old", NOON_MS - 4_001),
        heartbeat("older", NOON_MS - 3_000),
        heartbeat("ahead", NOON_MS + 9),
    ]
    changed = seen.see(rows, now_s=0.0, now_ms=NOON_MS)
    assert seen.live(0.0) == ("ahead", "me", "older")
    assert [row.processor for row in changed] == ["older", "ahead"]
    assert seen.live(1.1) == ("ahead", "me")
    seen.see([heartbeat("old", NOON_MS - 3_001)], now_s=1.1, now_ms=NOON_MS + 1_100)
    assert seen.live(1.1) == ("me", "old"), "it is alive: its clock is wrong"


def test_row_that_is_gone_is_dead_at_once() -> None:
    seen = fleet.Fleet("me")
    seen.see([heartbeat("left")], now_s=0.0, now_ms=NOON_MS)
    seen.see([], now_s=1.0, now_ms=NOON_MS)
    assert seen.live(1.0) == ("me",)
