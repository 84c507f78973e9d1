"""Tells of what goes on for long only now and then."""

import math

TELL_EVERY_S = 30.0


class Throttle:
    """Lets one through, then none for `every_s`."""

    def __init__(self, every_s: float = TELL_EVERY_S) -> None:
        self._every_s = every_s
        self._next_s = -math.inf

    def admits(self, now_s: float) -> bool:
        """Whether it may be told now; if so, the wait begins. now_s: of the monotonic clock."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def reset(self) -> None:
        """What was told of is over: the next is let through at once."""
        self._next_s = -math.inf


class OncePerSubject:
    """Lets each subject through once; so many of them at most are remembered, and no more told."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._seen: set[str] = set()

    def admits(self, subject: str) -> bool:
        if subject in self._seen or len(self._seen) >= self._most:
            return False
        self._seen.add(subject)
        return True
