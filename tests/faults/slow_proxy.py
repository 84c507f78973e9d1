"""`python -m tests.faults.slow_proxy --port N --target PORT`: a store that can do only so much.

It stands before an engine and works requests off one after the other, as a small node does: those
whose client has gone away, too. `POST /_pace` makes it slower, stop, or fail at once; `GET
/_counts` tells what it did.
"""

import argparse
import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

CONDITIONAL_S = 0.007
PLAIN_S = 0.0015
FAILED = json.dumps({"__type": "x#InternalServerError", "message": "no quorum"}).encode()


@dataclass(frozen=True)
class Message:
    """A request or an answer, as it came."""

    head: bytes
    body: bytes

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> "Message":
        """Raises IncompleteReadError at the end of the connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return cls(head, await reader.readexactly(int(length[1])) if length else b"")

    @property
    def whole(self) -> bytes:
        return self.head + self.body

    @property
    def is_conditional(self) -> bool:
        return b'"ConditionExpression"' in self.body

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()


def answer(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class SlowStore:
    """One queue. slowness: by how much requests take longer. mode: stopped, failing, or none."""

    target: int
    slowness: float = 1.0
    mode: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Message, asyncio.StreamWriter, asyncio.Event]] = (
            asyncio.Queue()
        )
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._take(await Message.read(reader), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _take(
        self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if message.path == "/_counts":
            writer.write(answer(200, json.dumps(self.counts).encode()))
            return
        if message.path == "/_pace":
            self._set(**json.loads(message.body))
            writer.write(answer(200, b"{}"))
            return
        self.counts["asked"] += 1
        if self.mode == "failing":
            writer.write(answer(500, FAILED))
            return
        is_done = asyncio.Event()
        self._queue.put_nowait((message, writer, is_done))
        # A client that goes away meanwhile is noticed, but its request stays in the queue.
        waiting = asyncio.create_task(is_done.wait())
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=0.2)
            if reader.at_eof():
                writer.close()
                await waiting

    def _set(self, slowness: float = 1.0, mode: str = "") -> None:
        self.slowness, self.mode = slowness, mode
        self._goes_on.clear() if mode == "stopped" else self._goes_on.set()

    async def work(self) -> None:
        """For ever. Time lost by this process is caught up with: the pace is what it says."""
        loop, ready_s, engine = asyncio.get_running_loop(), 0.0, await self._engine()
        while True:
            if self._queue.empty():
                ready_s = 0.0
            message, writer, is_done = await self._queue.get()
            await self._goes_on.wait()
            cost_s = (CONDITIONAL_S if message.is_conditional else PLAIN_S) * self.slowness
            now_s = loop.time()
            ready_s = max(ready_s, now_s - 0.1) + cost_s
            if ready_s > now_s:
                await asyncio.sleep(ready_s - now_s)
            engine[1].write(message.whole)
            given = await Message.read(engine[0])
            self._give(given, writer)
            is_done.set()

    def _give(self, given: Message, writer: asyncio.StreamWriter) -> None:
        is_gone = writer.is_closing()
        self.counts["abandoned" if is_gone else "answered"] += 1
        if not is_gone:
            writer.write(given.whole)

    async def _engine(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.target)


async def main(port: int, target: int) -> None:
    store: Any = SlowStore(target)
    server = await asyncio.start_server(store.serve, "127.0.0.1", port, backlog=1024)
    async with server:
        await store.work()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.slow_proxy", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(main(options.port, options.target))
