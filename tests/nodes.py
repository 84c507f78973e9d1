"""Nodes of a cluster: each tells who is there and passes everything else on to one engine."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from tests.conftest import free_port

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Node(ThreadingHTTPServer):
    """lists: what it answers to /localnodes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, port: int, engine_url: str, lists: Sequence[str]) -> None:
        super().__init__((address, port), _Handler)
        self.engine = urlsplit(engine_url).netloc
        self.lists = list(lists)


class _Handler(BaseHTTPRequestHandler):
    server: Node
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/localnodes":
            self._answer(200, json.dumps(self.server.lists).encode())
        else:
            self._answer(200, b"healthy")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        engine = HTTPConnection(self.server.engine)
        try:
            engine.request("POST", "/", body, dict(self.headers))
            answer = engine.getresponse()
            self._answer(answer.status, answer.read())
        finally:
            engine.close()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to know."""


@contextmanager
def cluster(
    engine_url: str, addresses: Sequence[str] = ADDRESSES
) -> Iterator[tuple[str, list[Node]]]:
    """The URL of the first node, and all of them; each lists all."""
    port = free_port()
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(Node(address, port, engine_url, addresses)) for address in addresses
        ]
        for node in nodes:
            Thread(target=node.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(node.shutdown)
        yield f"http://{addresses[0]}:{port}", nodes
