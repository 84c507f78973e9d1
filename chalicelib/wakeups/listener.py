"""The UDP socket on which a process takes wake-up messages."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Self

from chalicelib.config import Settings
from chalicelib.wakeups import address
from chalicelib.wakeups.message import DATAGRAM_MAX

log = logging.getLogger(__name__)

PORTS = 256
"""Each process of a worker takes the first free port from WAKEUP_PORT on: so many are tried."""
BUFFER_BYTES = 4 << 20
TURN_MAX = 64
"""After so many datagrams it is the turn of whatever else is ready in the event loop. What a flood
leaves no room for is lost in the kernel, and costs nothing."""


class Listener:
    """Reads datagrams in the running event loop. address: where others reach it."""

    def __init__(self, bound: socket.socket, host: str) -> None:
        """host: what others call this machine."""
        self.address = address.shown(host, bound.getsockname()[1])
        self._socket = bound
        self._take: Callable[[bytes], None]

    @classmethod
    async def open(cls, settings: Settings) -> Self | None:
        """None with WAKEUP=off, and if no socket can be opened; this is logged."""
        if not settings.wakeup:
            return None
        try:
            host = settings.wakeup_address or await address.toward(settings.endpoints)
            return cls(_bound(host, settings.wakeup_port), host)
        except (OSError, UnicodeError) as error:
            extra = {"action": "wakeups_off"}
            text = "no wake-up messages are taken, polls find new tasks: %s"
            log.warning(text, error, extra=extra)
            return None

    def start(self, take: Callable[[bytes], None]) -> None:
        """From now on `take` is called with each datagram, until close()."""
        self._take = take
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(TURN_MAX):
            try:
                datagram = self._socket.recv(DATAGRAM_MAX + 1)
            except OSError:  # There is no further one.
                return
            self._take(datagram)


def _bound(host: str, port: int) -> socket.socket:
    """A socket of this address, or of any, if that is another machine's which sends it on here."""
    try:
        return _bound_to(host, port)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
    return _bound_to("::" if ":" in host else "0.0.0.0", port)


def _bound_to(host: str, port: int) -> socket.socket:
    last = port + PORTS - 1 if port else 0
    while True:
        bound = socket.socket(address.family(host), socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            bound.bind((host, port))
            return bound
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE or port >= min(last, 65_535):
                raise
        port += 1
