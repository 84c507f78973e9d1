"""A bad network for wake-up messages: it loses, repeats and forges them, and brings old ones."""

import os
from collections import Counter, deque
from random import Random
from threading import Lock

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.wakeups.message import Seal
from chalicelib.wakeups.sender import Sender, Sockets

REMEMBERED = 200


class BadPost:
    """A Transmit, for many threads. fates: what befell messages."""

    def __init__(self, rng: Random) -> None:
        self.fates: Counter[str] = Counter()
        self._rng = rng
        self._lock = Lock()
        self._sockets = Sockets()
        self._seen: deque[tuple[bytes, tuple[str, int]]] = deque(maxlen=REMEMBERED)

    def sender(self, settings: Settings, clock: Clock) -> Sender:
        return Sender(Seal.of(settings), clock, self)

    def __call__(self, datagram: bytes, to: tuple[str, int]) -> None:
        with self._lock:
            self._seen.append((datagram, to))
            if not self._strike("lost", 0.2):
                self._sockets(datagram, to)
            if self._strike("again", 0.2):
                self._sockets(*self._rng.choice(self._seen))
            if self._strike("misdirected", 0.1):
                self._sockets(datagram, self._rng.choice(self._seen)[1])
            if self._strike("forged", 0.1):
                self._sockets(os.urandom(len(datagram)), to)

    def _strike(self, fate: str, rate: float) -> bool:
        is_struck = self._rng.random() < rate
        self.fates[fate] += is_struck
        return is_struck

    def close(self) -> None:
        self._sockets.close()
