"""What comes on a connection of the local server, and how long it is waited for."""

import io
import socket
from typing import Any

from chalicelib.clock import Clock
from local.crowd import Crowd


class Dropped(Exception):
    """The connection had to make way for another one."""


class Input(io.RawIOBase):
    """What comes on a connection, for as long as may be waited for it.

    Raises TimeoutError or Dropped.
    """

    def __init__(self, connection: socket.socket, clock: Clock, crowd: Crowd) -> None:
        self._connection = connection
        self._clock = clock
        self._crowd = crowd
        self._idle_s = self._until_s = 0.0

    def expect(self, idle_s: float, whole_s: float) -> None:
        """From now on wait so long for the next bytes, and so long for all of them."""
        self._idle_s, self._until_s = idle_s, self._clock.monotonic_s() + whole_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(min(self._idle_s, left_s))
        size = self._connection.recv_into(buffer)
        if not size and self._crowd.was_dropped(self._connection):
            raise Dropped
        return size
