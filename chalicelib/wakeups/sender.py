"""Sends hints to the processor that is to look at their tasks."""

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Self

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat, Hint
from chalicelib.wakeups import address
from chalicelib.wakeups.message import Seal

log = logging.getLogger(__name__)

Transmit = Callable[[bytes, tuple[str, int]], None]
"""Sends one datagram to an address and port, or loses it. It neither waits nor raises."""


class Sockets:
    """A Transmit by sockets that are opened when they are first needed. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sockets: dict[socket.AddressFamily, socket.socket | None] = {}

    def __call__(self, datagram: bytes, to: tuple[str, int]) -> None:
        with self._lock:
            family = address.family(to[0])
            if family not in self._sockets:
                self._sockets[family] = self._opened(family)
            sending = self._sockets[family]
            if sending is not None:
                try:
                    sending.sendto(datagram, to)
                except OSError:
                    return  # It is lost, as any other may be.

    def _opened(self, family: socket.AddressFamily) -> socket.socket | None:
        try:
            opened = socket.socket(family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            return opened
        except OSError as error:
            extra = {"action": "wakeups_off"}
            log.warning("no wake-up messages are sent: %s", error, extra=extra)
            return None

    def close(self) -> None:
        with self._lock:
            for one in self._sockets.values():
                if one is not None:
                    one.close()
            self._sockets.clear()


@lru_cache(maxsize=5_000)
def _receiver(shard: int, ids: tuple[str, ...]) -> str:
    return ownership.owner(shard, ids)


class Sender:
    """Safe for many threads."""

    def __init__(self, seal: Seal, clock: Clock, transmit: Transmit) -> None:
        self._seal = seal
        self._clock = clock
        self._transmit = transmit

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> Self | None:
        """None with WAKEUP=off."""
        if not settings.wakeup:
            return None
        return cls(Seal.of(settings), clock, Sockets())

    def send(self, hints: Iterable[Hint], fleet: Iterable[Heartbeat]) -> None:
        """Each to the nearest of these processors that has an address: the shard's owner, if it has
        one. Nothing is waited for, nothing raised."""
        reachable = {row.processor: at for row in fleet if (at := address.parsed(row.wakeup or ""))}
        if not reachable:
            return
        ids, by_receiver = tuple(sorted(reachable)), dict[str, list[Hint]]()
        for hint in hints:
            receiver = _receiver(hint.shard, ids)
            by_receiver.setdefault(receiver, []).append(hint)
        for receiver, theirs in by_receiver.items():
            self._send_to(receiver, reachable[receiver], theirs)

    def _send_to(self, receiver: str, at: tuple[str, int], hints: Sequence[Hint]) -> None:
        for message in self._seal.messages(hints, to=receiver, now_ms=self._clock.now_ms()):
            self._transmit(message, at)
