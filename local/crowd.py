"""The connections of a server: no more than it has room for, and who waits longest makes way."""

import contextlib
import resource
import socket
import threading

CONNECTIONS_MAX = 1000
"""Each has a thread of its own."""


def connections_max() -> int:
    """How many this process can hold with as many descriptors again in reserve.

    Raises the soft limit of descriptors for it as far as the hard one allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    wanted = 2 * CONNECTIONS_MAX
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        soft = wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CONNECTIONS_MAX, soft // 2)


class Crowd:
    """Connections that wait for a request or a part of it, and those whose request is answered.

    Safe for many threads. places: how many there may be.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}
        self._served: set[socket.socket] = set()
        self._dropped: set[socket.socket] = set()

    def enter(self, connection: socket.socket) -> bool:
        """A new connection waits. False if there is no place, and nobody who could make way."""
        with self._lock:
            if len(self._waiting) + len(self._served) >= self._places and not self._drop():
                return False
            self._waiting[connection] = None
            return True

    def serve(self, connection: socket.socket) -> None:
        """Its request has come; it is dropped no more, unless it was before."""
        with self._lock:
            self._waiting.pop(connection, None)
            if connection not in self._dropped:
                self._served.add(connection)

    def wait(self, connection: socket.socket) -> None:
        """It waits for its next request, behind all that wait already."""
        with self._lock:
            self._served.discard(connection)
            if connection not in self._dropped:
                self._waiting[connection] = None

    def leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting.pop(connection, None)
            self._served.discard(connection)
            self._dropped.discard(connection)

    def make_room(self) -> None:
        """Drop who has waited longest."""
        with self._lock:
            self._drop()

    def was_dropped(self, connection: socket.socket) -> bool:
        with self._lock:
            return connection in self._dropped

    def _drop(self) -> bool:
        """Its thread reads the end of what came, and can still answer."""
        for connection in self._waiting:
            del self._waiting[connection]
            self._dropped.add(connection)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            return True
        return False
