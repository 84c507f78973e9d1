"""HTTP/1.1 to one node, as lean as it can be: kept connections, one request at a time on each.

A connection is used again only after one whole answer and nothing else came to the one request
that was sent. After anything unexpected it is closed, and after a timeout or a cancellation it only
waits for the answer that nobody wants any more: an answer can never reach another request.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

CONNECT_TIMEOUT_S = 1.0
IDLE_MAX_S = 15.0
"""A connection idle for longer is not used again: who stands between may have forgotten it."""
BODY_MAX = 64 << 20
LATE_MAX_S = 60.0
"""An answer that nobody waits for is listened for so long: it tells that the node is there."""


class NotConnected(ConnectionError):
    """Nothing was sent: there is no connection."""


class GivenUp(ConnectionError):
    """Its answer is no longer waited for, though it may still come."""


class Answer(NamedTuple):
    """What a node answered. date, server: these headers, empty if there were none."""

    status: int
    date: bytes
    body: bytes
    server: bytes = b""


class Connection(asyncio.Protocol):
    """One connection; its callbacks are those of asyncio and of the parser."""

    def __init__(self, register: set["Connection"]) -> None:
        """register: holds this connection for as long as it is open."""
        self._register = register
        self._wire: asyncio.Transport
        self._waiting: asyncio.Future[Answer] | None = None
        self._is_spoilt = False
        self.idle_since_s = 0.0

    @property
    def is_usable(self) -> bool:
        return not (self._is_spoilt or self._wire.is_closing())

    async def ask(self, message: bytes) -> Answer:
        """Raises OSError if there is no whole answer. Whatever is raised, close it then."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._parser = HttpResponseParser(self)
        self._date, self._server, self._parts, self._size = b"", b"", list[bytes](), 0
        self._wire.write(message)
        return await self._waiting

    def give_up(self, why: str) -> None:
        """Whoever waits for the answer is told GivenUp."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(GivenUp(why))

    def listen(self, told: Callable[[Answer | None], None]) -> None:
        """Close this once its late answer, which `told` is given, or None has come of it."""
        loop, awaited = asyncio.get_running_loop(), self._waiting
        late = self._waiting = loop.create_future()
        timer = loop.call_later(LATE_MAX_S, self.close)

        def ended(late: asyncio.Future[Answer]) -> None:
            timer.cancel()
            self.close()
            told(None if late.cancelled() or late.exception() else late.result())

        late.add_done_callback(ended)
        if awaited is not None and not awaited.cancelled() and awaited.exception() is None:
            late.set_result(awaited.result())  # It came in the moment of the cancellation.
        elif not self.is_usable:
            self._fail("the connection had ended")

    def close(self) -> None:
        self._wire.abort()

    def connection_made(self, wire: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, wire)
        self._register.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._register.discard(self)
        self._fail(f"the connection ended before the answer did: {error!r}")

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(f"an answer that is no HTTP: {error!r}")

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 4 and name.lower() == b"date":
            self._date = value
        elif len(name) == 6 and name.lower() == b"server":
            self._server = value

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > BODY_MAX:
            self._fail(f"an answer of more than {BODY_MAX} bytes")

    def on_message_begin(self) -> None:
        self._is_spoilt = self._waiting is None or self._waiting.done()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._waiting is None or self._waiting.done() or status < 200:
            self._fail(f"an answer that was not asked for: {status}")
            return
        self._is_spoilt = not self._parser.should_keep_alive()
        self._waiting.set_result(Answer(status, self._date, b"".join(self._parts), self._server))

    def _fail(self, text: str) -> None:
        self._is_spoilt = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(text))


class Node:
    """A node of the store, and the connections to it. host: as a request must name it."""

    def __init__(self, endpoint: str, context: ssl.SSLContext | None) -> None:
        """context: for https, else None."""
        url = urlsplit(endpoint)
        self._address = url.hostname or "", url.port or (443 if context else 80)
        self._context = context
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._is_closed = False
        self.host = url.netloc.rpartition("@")[2]

    async def connect(self) -> Connection:
        """A connection for one request. Raises NotConnected."""
        return self._kept() or await self._connected()

    def keep(self, connection: Connection) -> None:
        """It may serve another request: its answer came whole."""
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def close(self) -> None:
        """End all connections for good: what waits for an answer is told that there is none."""
        self._is_closed = True
        for connection in self._open:
            connection.close()
        while self._open:
            await asyncio.sleep(0)

    def _kept(self) -> Connection | None:
        """The one used last that is still good; what is not, on the way to it, is closed."""
        oldest_s = asyncio.get_running_loop().time() - IDLE_MAX_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.idle_since_s >= oldest_s:
                return connection
            connection.close()
        return None

    async def _connected(self) -> Connection:
        connect = asyncio.get_running_loop().create_connection(
            lambda: Connection(self._open), *self._address, ssl=self._context
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await connect
        except OSError as error:
            raise NotConnected(f"no connection to {self.host}: {error!r}") from error
        if self._is_closed:
            connection.close()
            raise NotConnected("this client was closed")
        return connection
