"""Whether the store is slow, by its own answers; says when tasks have to wait for it, and when that
is over."""

import logging
import math

from chalicelib.clock import Clock
from chalicelib.processing.ledger import Record
from chalicelib.store.contract import Pressure

log = logging.getLogger(__name__)

TELL_AFTER_S = 2.0
"""It must have been slow for so long: every burst begins with a moment of it."""
SLOW_FOR_S = 10.0
"""A store that was slow within this time may well be slow again."""


class StoreWatch:
    """is_slow: whether the store was slow just now, or some seconds ago. has_waiting: whether tasks
    have had to wait for the store's sake for some time; that is logged."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self.is_slow = False
        self.has_waiting = False
        self._clock = clock
        self._record = record
        self._slow_until_s = -math.inf
        self._since_s = math.inf
        self._most_waiting = 0

    def note(self, pressure: Pressure) -> None:
        """Called twice a second."""
        now_s = self._clock.monotonic_s()
        if pressure.is_slow:
            self._slow_until_s = now_s + SLOW_FOR_S
        self.is_slow = now_s < self._slow_until_s

    def look(self, pressure: Pressure, waiting: int) -> None:
        """Called each second. waiting: ready hints for which there is no room at the store."""
        now_s = self._clock.monotonic_s()
        if not pressure.is_slow or not (waiting or self.has_waiting):
            self._end(now_s, pressure)
            return
        self._since_s = min(self._since_s, now_s)
        self._most_waiting = max(self._most_waiting, waiting)
        if not self.has_waiting and now_s - self._since_s >= TELL_AFTER_S:
            self.has_waiting = True
            self._record("slow", None, waiting=waiting, **_figures(pressure))
            extra = {"action": "store_slow", "waiting": waiting, **_figures(pressure)}
            text = "the store is slower than its load: %d tasks wait; %.1f requests at once, %.2f s"
            log.warning(text, waiting, pressure.requests, pressure.latency_s, extra=extra)

    def held_back_s(self, first_ms: float, now_ms: int) -> int:
        """For how long the oldest ready hint, of this time, has waited for the store's sake."""
        if not self.has_waiting or first_ms == math.inf:
            return 0
        return max(0, now_ms - round(first_ms)) // 1000

    def _end(self, now_s: float, pressure: Pressure) -> None:
        if self.has_waiting:
            lasted_s = now_s - self._since_s
            self._record("keeps_up", None, lasted_s=lasted_s, waiting=self._most_waiting)
            extra = {"action": "store_keeps_up", "lasted_s": round(lasted_s, 1)}
            text = (
                "the store keeps up again after %.0f s; %d tasks waited at most; %.2f s a request"
            )
            log.info(text, lasted_s, self._most_waiting, pressure.latency_s, extra=extra)
        self.has_waiting, self._since_s, self._most_waiting = False, math.inf, 0


def _figures(pressure: Pressure) -> dict[str, float]:
    return {
        "requests": round(pressure.requests, 2),
        "latency_s": round(pressure.latency_s, 3),
        "delay_s": round(pressure.delay_s, 3),
    }
