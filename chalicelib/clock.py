"""The one place that reads the time."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Two readings: the wall clock, which all processes share, and one that never jumps."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed instant, the same for every process of this machine."""


class SystemClock:
    """The clock of the operating system."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


Sleep = Callable[[float], object]
"""Blocks for so many seconds."""


def pause(seconds: float) -> None:
    """The Sleep that really waits."""
    time.sleep(seconds)


class ClockOffset:
    """How far another clock is from ours, from the times it wrote on what it sent us.

    Each note bounds the offset from both sides; the last ones together bound it closely.
    """

    def __init__(self, notes_max: int = 20) -> None:
        self._bounds: deque[tuple[int, int]] = deque(maxlen=notes_max)

    def note(self, theirs_ms: int, resolution_ms: int, sent_ms: int, received_ms: int) -> None:
        """Their clock showed `theirs_ms`, cut to its resolution, between two readings of ours."""
        self._bounds.append((theirs_ms - received_ms, theirs_ms + resolution_ms - sent_ms))
        if max(low for low, _ in self._bounds) > min(high for _, high in self._bounds):
            # One of the clocks was set meanwhile: older notes speak of another offset.
            last = self._bounds.pop()
            self._bounds.clear()
            self._bounds.append(last)

    def least_ms(self) -> int:
        """The least possible offset: positive if theirs is ahead, 0 if they may agree."""
        if not self._bounds:
            return 0
        low = max(low for low, _ in self._bounds)
        high = min(high for _, high in self._bounds)
        return low if low > 0 else min(high, 0)
