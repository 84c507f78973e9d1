"""Says when the store becomes slower than what is asked of it, and when that is over."""

import logging
import math

from chalicelib.clock import Clock
from chalicelib.processing.ledger import Record
from chalicelib.store.contract import Pressure

log = logging.getLogger(__name__)

TELL_AFTER_S = 2.0
"""It must have been slow for so long: every burst begins with a moment of it."""


class StoreWatch:
    """Looked at about once a second.

    is_slow: whether tasks have to wait for the store's sake.
    """

    def __init__(self, clock: Clock, record: Record) -> None:
        self.is_slow = False
        self._clock = clock
        self._record = record
        self._since_s = math.inf
        self._most_waiting = 0

    def look(self, pressure: Pressure, waiting: int) -> None:
        """waiting: ready hints for which there is no room at the store."""
        now_s = self._clock.monotonic_s()
        if not pressure.is_slow or not (waiting or self.is_slow):
            self._end(now_s, pressure)
            return
        self._since_s = min(self._since_s, now_s)
        self._most_waiting = max(self._most_waiting, waiting)
        if not self.is_slow and now_s - self._since_s >= TELL_AFTER_S:
            self.is_slow = True
            self._record("slow", None, waiting=waiting, **_figures(pressure))
            extra = {"action": "store_slow", "waiting": waiting, **_figures(pressure)}
            text = "the store is slower than its load: %d tasks wait; %.1f requests at once, %.2f s"
            log.warning(text, waiting, pressure.requests, pressure.latency_s, extra=extra)

    def _end(self, now_s: float, pressure: Pressure) -> None:
        if self.is_slow:
            lasted_s = now_s - self._since_s
            self._record("keeps_up", None, lasted_s=lasted_s, waiting=self._most_waiting)
            extra = {"action": "store_keeps_up", "lasted_s": round(lasted_s, 1)}
            text = (
                "the store keeps up again after %.0f s; %d tasks waited at most; %.2f s a request"
            )
            log.info(text, lasted_s, self._most_waiting, pressure.latency_s, extra=extra)
        self.is_slow, self._since_s, self._most_waiting = False, math.inf, 0


def _figures(pressure: Pressure) -> dict[str, float]:
    return {
        "requests": round(pressure.requests, 2),
        "latency_s": round(pressure.latency_s, 3),
        "delay_s": round(pressure.delay_s, 3),
    }
