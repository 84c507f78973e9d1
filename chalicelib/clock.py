"""The one place that reads the time."""

import time
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

    monotonic_s = staticmethod(time.monotonic)


Sleep = Callable[[float], object]
"""Blocks for so many seconds."""


def pause(seconds: float) -> None:
    """The Sleep that really waits."""
    time.sleep(seconds)
