"""The leanest client that can be built here: bytes made beforehand, sent on kept connections.

It does no scheduling, makes no retries and looks at an answer no further than its status and its
length: what it reaches is the ceiling of whoever sends the same requests to the same engine.
"""

import json
import multiprocessing
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.store.alternator.requests import Request

Chain = Sequence[bytes]
"""Requests of which each is sent once the one before it is answered."""

CONNECTIONS = 32
RECEIVE_BYTES = 1 << 16
WAIT_S = 10.0
OK = b"HTTP/1.1 200"
# An embedded engine wants to see a signature, and does not check it.
_HEAD = (
    "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-amz-json-1.0\r\n"
    "X-Amz-Target: DynamoDB_20120810.{action}\r\nX-Amz-Date: 20260101T000000Z\r\n"
    "Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request,"
    " SignedHeaders=host, Signature=0\r\nContent-Length: {length}\r\n\r\n"
)


class Refused(Exception):
    """The engine did not answer 200."""


@dataclass(frozen=True, slots=True)
class Sent:
    """seconds: from the first request to the last answer. cpu_s: of all clients together."""

    requests: int
    seconds: float
    cpu_s: float


def encoded(request: Request) -> bytes:
    """The request as it goes over the wire."""
    body = json.dumps(request.body, separators=(",", ":")).encode()
    return _HEAD.format(action=request.action, length=len(body)).encode() + body


def send(port: int, chains: Sequence[Chain], *, connections: int = CONNECTIONS) -> Sent:
    """Send all of them from this process. Raises Refused for any answer but a 200."""
    waiting = iter(chains)
    poll = select.epoll()
    places = [_Place(port, waiting) for _ in range(min(connections, len(chains)))]
    by_fd = {place.fd: place for place in places}
    cpu_s, started_s = time.process_time(), time.perf_counter()
    try:
        for place in places:
            poll.register(place.fd, select.EPOLLIN)
            place.send_next()
        left = len(places)
        while left:
            ready = poll.poll(WAIT_S)
            if not ready:
                raise Refused(f"no answer within {WAIT_S:g} s")
            for fd, _ in ready:
                left -= not by_fd[fd].receive()
        seconds = time.perf_counter() - started_s
    finally:
        poll.close()
        for place in places:
            place.close()
    return Sent(sum(map(len, chains)), seconds, time.process_time() - cpu_s)


def send_by(processes: int, port: int, chains: Sequence[Chain], **options: Any) -> Sent:
    """The same from several processes that start together."""
    if processes == 1:
        return send(port, chains, **options)
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.SimpleQueue()

    def run(part: Sequence[Chain]) -> None:
        barrier.wait(WAIT_S)
        started_s = time.monotonic()
        sent = send(port, part, **options)
        answers.put((started_s, started_s + sent.seconds, sent.cpu_s))

    clients = [context.Process(target=run, args=(chains[n::processes],)) for n in range(processes)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if any(client.exitcode for client in clients):
        raise Refused("a client process failed")
    spans = [answers.get() for _ in clients]
    seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return Sent(sum(map(len, chains)), seconds, sum(cpu_s for _, _, cpu_s in spans))


class _Place:
    """One connection, with the requests it still has to send."""

    def __init__(self, port: int, waiting: Iterator[Chain]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting = waiting
        self._chain: Iterator[bytes] = iter(())
        self._received = b""
        self.fd = self._socket.fileno()

    def send_next(self) -> bool:
        """False when there is nothing left to send."""
        request = next(self._chain, None)
        while request is None:
            chain = next(self._waiting, None)
            if chain is None:
                return False
            self._chain = iter(chain)
            request = next(self._chain, None)
        self._socket.sendall(request)
        return True

    def receive(self) -> bool:
        """Take what has come and go on; False when this connection is done."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise Refused("the engine closed a connection")
        if self._received:
            data = self._received + data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _length(data, head):
            self._received = data
            return True
        self._received = b""
        if not data.startswith(OK):
            raise Refused(data.decode(errors="replace"))
        return self.send_next()

    def close(self) -> None:
        self._socket.close()


def _length(data: bytes, head: int) -> int:
    start = data.find(b"content-length: ", 0, head)
    if start < 0:
        raise Refused(data[:head].decode(errors="replace"))
    return int(data[start + 16 : data.find(b"\r", start)])
