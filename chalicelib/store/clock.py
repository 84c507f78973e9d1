"""The store's clock, as its answers tell it: what everybody goes by.

A wall clock can be wrong, and can be set at any moment. What an answer bears as its Date bounds the
clock of the node that wrote it, and the monotonic clock carries the bounds from one answer to the
next. Here an offset is a clock's milliseconds less those of the monotonic clock.
"""

import logging
import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from chalicelib.clock import Clock
from chalicelib.throttle import Throttle

log = logging.getLogger(__name__)

RESOLUTION_MS = 1_000
DATE_AGE_MS = 1_000
"""Some servers, ScyllaDB's too, renew their Date once a second, at an instant of their own."""
DRIFT_MS = 0.5
"""By so much at most, two clocks drift apart each second."""
STEP_MS = 20
"""A wall clock that moved ahead by more than this against the monotonic one was set."""
FOLLOW_MS = 5.0
"""It is followed by so much each second."""
HEARD_WITHIN_S = 120.0
"""A node that told nothing for so long has no vote."""
TELL_MS = 100
SURE_MS = 60.0
"""Known within this, a node's clock needs no look of its own."""


class StoreClock:
    """The wall clock, held within what answers tell about the store's clock.

    If the wall clock is set ahead it is followed slowly, unless where it came from is wrong. Of
    several nodes the middle one counts; of two, the nearer one to the wall clock. Before there is
    an answer: the wall clock as it is. Safe for many threads.
    """

    def __init__(self, base: Clock) -> None:
        self._base = base
        self.monotonic_s = base.monotonic_s
        self._lock = Lock()
        self._nodes: dict[str, NodeTime] = {}
        self._known: _Known | None = None
        self._is_off = False
        self._throttle = Throttle()

    @classmethod
    def over(cls, clock: Clock) -> "StoreClock":
        """The clock itself if it is one of these, else a new one over it."""
        return clock if isinstance(clock, StoreClock) else cls(clock)

    def now_ms(self) -> int:
        known = self._known
        if known is None:
            return self._base.now_ms()
        # In this order: whoever is interrupted in between sees the wall clock late, not early.
        mono_ms = self._base.monotonic_s() * 1000
        wall_ms = self._base.now_ms()
        offset_ms = wall_ms - mono_ms
        if known.low_ms <= offset_ms <= known.top_ms:
            return wall_ms
        return known.corrected_ms(offset_ms, mono_ms)

    def wall_ms(self) -> int:
        """What the machine's clock shows."""
        return self._base.now_ms()

    def earliest_ms(self) -> int:
        """The least that the store's clock can show now."""
        known = self._known
        if known is None:
            return self._base.now_ms()
        mono_ms = self._base.monotonic_s() * 1000
        return math.floor(mono_ms + known.low_ms - known.slack_ms(mono_ms))

    def node(self, name: str) -> "NodeTime":
        """Where to note what this node tells."""
        with self._lock:
            return self._nodes.setdefault(name, NodeTime(self._base, self._noted))

    def _noted(self) -> None:
        """Put together what is known, by all nodes that told something lately."""
        with self._lock:
            now_s = self._base.monotonic_s()
            offset_ms = self._base.now_ms() - now_s * 1000
            heard = [n for n in self._nodes.values() if n.heard_s > now_s - HEARD_WITHIN_S]
            if not heard:
                return
            lows, highs = zip(*(node.bounds_ms(now_s) for node in heard), strict=True)
            low_ms = sorted(lows)[(len(heard) - 1) // 2]
            high_ms = sorted(highs)[len(heard) // 2]
            wall_ms = self._followed_ms(offset_ms, now_s, low_ms)
            top_ms = min(high_ms, wall_ms + STEP_MS)
            self._known = _Known(low_ms, high_ms, wall_ms, top_ms, now_s * 1000)
            self._tell(_excess(offset_ms, low_ms, high_ms), now_s)

    def _followed_ms(self, offset_ms: float, now_s: float, low_ms: float) -> float:
        """The wall clock's offset, as far as it is followed if it was set ahead."""
        before = self._known
        if before is None:
            return offset_ms
        most_ms = before.wall_ms + FOLLOW_MS * (now_s - before.at_ms / 1000)
        return offset_ms if most_ms < low_ms else min(offset_ms, most_ms)

    def _tell(self, off_ms: int, now_s: float) -> None:
        if abs(off_ms) > TELL_MS and self._throttle.admits(now_s):
            self._is_off = True
            side = "ahead of" if off_ms > 0 else "behind"
            text = "this machine's clock is at least %d ms %s the store's; it is corrected"
            extra = {"action": "clock_off", "offset_ms": off_ms}
            log.warning(text, abs(off_ms), side, extra=extra)
        elif self._is_off and off_ms == 0:
            self._is_off = False
            self._throttle.reset()
            text = "this machine's clock may agree with the store's again"
            log.info(text, extra={"action": "clock_agrees"})


def agreed_ms(clock: Clock) -> int:
    """What both clocks, the store's and the machine's, have reached."""
    now_ms = clock.now_ms()
    return min(now_ms, clock.wall_ms()) if isinstance(clock, StoreClock) else now_ms


class NodeTime:
    """What the Dates of one node's answers tell about its clock. Noted by one thread.

    A Date was written between sending and receiving, and is cut to whole seconds. So the first
    answer of a second bounds the node's clock closely from below, and the last one from above.
    """

    def __init__(self, clock: Clock, noted: Callable[[], None]) -> None:
        self._clock = clock
        self._noted = noted
        self._date = b""
        self._shown_ms: int | None = None
        self._sent_s = 0.0
        self._age_ms = 0
        self._low = _Bound(-math.inf, 0.0)
        self._high = _Bound(math.inf, 0.0)
        self.heard_s = -math.inf

    def hear(self, date: bytes, sent_s: float, *, is_exact: bool) -> None:
        """An answer to what was sent then has just come.

        is_exact: its Date was written for it; else it may be a second old.
        """
        if date == self._date:
            if sent_s > self._sent_s:
                self._sent_s = sent_s
            return
        now_s = self._clock.monotonic_s()
        if (
            self._shown_ms is not None
        ):  # What was sent last was still answered with the date before.
            self._narrow(-math.inf, self._most_ms(), self._sent_s)
        self._date, self._sent_s, self._shown_ms = date, sent_s, _shown_ms(date)
        if self._shown_ms is None:
            return
        self._age_ms = 0 if is_exact else DATE_AGE_MS
        self._narrow(self._shown_ms - now_s * 1000, self._most_ms(), now_s)
        self.heard_s = now_s
        self._noted()

    def bounds_ms(self, now_s: float) -> tuple[float, float]:
        """The least and the greatest offset that its clock can have now."""
        low, high = self._low, self._high
        low_ms = low.offset_ms - DRIFT_MS * (now_s - low.at_s)
        return low_ms, high.offset_ms + DRIFT_MS * (now_s - high.at_s)

    def ahead_ms(self) -> int:
        """The least by which its clock is ahead of the wall clock; negative if it is behind."""
        now_s = self._clock.monotonic_s()
        return -_excess(self._clock.now_ms() - now_s * 1000, *self.bounds_ms(now_s))

    def look_in_s(self) -> float | None:
        """When an answer would halve what is not known; None if enough is."""
        if self._shown_ms is None:
            return None
        self._narrow(-math.inf, self._most_ms(), self._sent_s)
        self._noted()
        now_s = self._clock.monotonic_s()
        low_ms, high_ms = self.bounds_ms(now_s)
        shown_high_ms = high_ms - self._age_ms
        if shown_high_ms - low_ms <= SURE_MS:
            return None
        middle_ms = (low_ms + shown_high_ms) / 2
        return 1 - (now_s + middle_ms / 1000) % 1

    def _most_ms(self) -> float:
        assert self._shown_ms is not None
        return self._shown_ms + RESOLUTION_MS + self._age_ms - self._sent_s * 1000

    def _narrow(self, low_ms: float, high_ms: float, at_s: float) -> None:
        known_low_ms, known_high_ms = self.bounds_ms(at_s)
        # What contradicts itself: a clock was set meanwhile, and the last word counts.
        was_set = low_ms > known_high_ms or high_ms < known_low_ms
        if was_set or low_ms > known_low_ms:
            self._low = _Bound(low_ms, at_s)
        if was_set or high_ms < known_high_ms:
            self._high = _Bound(high_ms, at_s)


class _Bound(NamedTuple):
    """Of an offset, as it was at this time of the monotonic clock."""

    offset_ms: float
    at_s: float


class _Known(NamedTuple):
    """Offsets. low_ms, high_ms: the store's is between them. wall_ms: as far as the wall clock's
    was followed. top_ms: up to there it is believed. at_ms: when that was known."""

    low_ms: float
    high_ms: float
    wall_ms: float
    top_ms: float
    at_ms: float

    def slack_ms(self, mono_ms: float) -> float:
        """What the clocks may have drifted since."""
        return (mono_ms - self.at_ms) * (DRIFT_MS / 1000)

    def corrected_ms(self, offset_ms: float, mono_ms: float) -> int:
        """What it is when the wall clock has this offset."""
        if offset_ms > self.wall_ms + STEP_MS:
            offset_ms = self.wall_ms
        slack_ms = self.slack_ms(mono_ms)
        offset_ms -= _excess(offset_ms, self.low_ms - slack_ms, self.high_ms + slack_ms)
        return math.floor(mono_ms + offset_ms)


def _excess(value: float, low: float, high: float) -> int:
    """By how much a value is above its range, or below it."""
    if value < low:
        return -math.ceil(low - value)
    return math.ceil(value - high) if value > high else 0


@lru_cache(maxsize=8)
def _shown_ms(date: bytes) -> int | None:
    try:
        return int(parsedate_to_datetime(date.decode()).timestamp() * 1000)
    except ValueError:
        return None
