"""Counts requests to the store, by operation, where they come in: a proxy that changes nothing."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from bench.machine import Broken

TARGET = b"x-amz-target: dynamodb_20120810."
LENGTH = b"content-length: "


class Counted:
    """The port of the proxy, and what has gone through it."""

    def __init__(self) -> None:
        self.port = 0
        self.open: set[asyncio.Transport] = set()
        self._counts: Counter[str] = Counter()

    def note(self, action: str) -> None:
        self._counts[action] += 1

    def now(self) -> Counter[str]:
        return Counter(dict(self._counts))


@contextmanager
def counting(port: int) -> Iterator[Counted]:
    """A proxy before the engine on this port, in a thread of its own."""
    counted = Counted()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(lambda: _Client(counted, port), "127.0.0.1", 0)
    )
    counted.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        asyncio.run_coroutine_threadsafe(_end(counted, server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(counted: Counted, server: asyncio.Server) -> None:
    server.close()
    for transport in list(counted.open):
        transport.abort()
    while counted.open:
        await asyncio.sleep(0.001)


class _Client(asyncio.Protocol):
    """A connection to us, and the one to the engine that belongs to it."""

    def __init__(self, counted: Counted, port: int) -> None:
        self._counted = counted
        self._port = port
        self._unread = b""
        self._early: list[bytes] = []
        self._engine: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._mine = transport
        self._counted.open.add(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        to, _ = await loop.create_connection(
            lambda: _Back(self._mine, self._counted), "127.0.0.1", self._port
        )
        self._engine = to
        if self._mine.is_closing():
            to.close()
        to.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        self._count(data)
        if self._engine is None:
            self._early.append(data)
        else:
            self._engine.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._counted.open.discard(self._mine)
        if self._engine is not None:
            self._engine.close()

    def _count(self, data: bytes) -> None:
        """Each request is counted once it is whole."""
        self._unread += data
        while (head := self._unread.find(b"\r\n\r\n")) >= 0:
            fields = self._unread[:head].lower()
            if b"transfer-encoding:" in fields:
                raise Broken("a request without a length cannot be counted")
            whole = head + 4 + (int(_field(fields, LENGTH) or 0))
            if len(self._unread) < whole:
                return
            at = fields.find(TARGET) + len(TARGET)
            action = self._unread[at : self._unread.find(b"\r", at)] if at >= len(TARGET) else b"-"
            self._counted.note(action.decode())
            self._unread = self._unread[whole:]


def _field(fields: bytes, name: bytes) -> bytes:
    start = fields.find(name)
    return fields[start + len(name) :].split(b"\r", 1)[0] if start >= 0 else b""


class _Back(asyncio.Protocol):
    """What the engine answers."""

    def __init__(self, client: asyncio.Transport, counted: Counted) -> None:
        self._client = client
        self._counted = counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._mine = transport
        self._counted.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._counted.open.discard(self._mine)
        self._client.close()
