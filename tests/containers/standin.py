"""What stands in for ScyllaDB's image: its flags, its /localnodes, and an embedded engine.

It tests how containers are started, found, stopped and joined to a cluster, not ScyllaDB. One
engine serves all nodes: the seed's; the others join by telling the seed, and pass requests on.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENGINE_PORT = 18000
JOIN_EVERY_S = 0.5
ENGINE = "/dynoxide"
DATA = "/var/lib/scylla/engine.db"
FLAGS = (
    "--seeds", "--dc", "--rack", "--smp", "--memory", "--overprovisioned", "--developer-mode",
    "--auto-snapshot", "--max-networking-io-control-blocks", "--alternator-port",
    "--alternator-address", "--alternator-write-isolation", "--alternator-ttl-period-in-seconds",
    "--broadcast-rpc-address",
)  # fmt: skip


class Node(BaseHTTPRequestHandler):
    """One connection of a client. What is not /localnodes or a join goes to the engine."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    engine: tuple[str, int]
    address: str
    port: int
    seed: str | None
    joined: dict[str, float]
    """Address of each other node: when it last told that it is there."""

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(*self.engine, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/join":
            self.joined[self.headers["Node"]] = time.monotonic()
            self.reply(200, {}, b"")
        elif path == "/localnodes" and self.seed is None:
            recently = time.monotonic() - 4 * JOIN_EVERY_S
            others = [node for node, at in self.joined.items() if at > recently]
            self.reply(200, {}, json.dumps([self.address, *others]).encode())
        elif path == "/localnodes":
            self.pass_on(http.client.HTTPConnection(self.seed or "", self.port))
        else:
            self.pass_on(self.upstream)

    def do_POST(self) -> None:
        self.pass_on(self.upstream)

    def pass_on(self, upstream: http.client.HTTPConnection) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        kept = {"Content-Type", "Date", "x-amz-crc32"}
        headers = {name: value for name, value in answer.getheaders() if name in kept}
        self.reply(answer.status, headers, answer.read())

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        headers = {"Date": self.date_time_string()} | headers
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in FLAGS:
        parser.add_argument(flag)
    options = parser.parse_args()
    if os.environ.get("STANDIN_FAILS"):
        print("Could not setup Async I/O", flush=True)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(float(os.environ.get("STANDIN_BOOTS_S", "0")))
    own = socket.gethostbyname(socket.gethostname())
    is_seed = options.seeds in (None, socket.gethostname())
    Node.address = options.broadcast_rpc_address or own
    Node.seed = None if is_seed else options.seeds
    Node.joined = {}
    Node.engine = ("127.0.0.1" if is_seed else options.seeds, ENGINE_PORT)
    Node.port = int(options.alternator_port)
    # ScyllaDB listens on the container's address alone unless it is told.
    server = Server((options.alternator_address or own, Node.port), Node)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    engine = start_engine() if is_seed else None
    if not is_seed:
        threading.Thread(target=keep_joined, daemon=True).start()
    server.serve_forever(0.1)
    if engine:
        engine.terminate()
        engine.wait()
    return 0


def start_engine() -> "subprocess.Popen[bytes]":
    engine = subprocess.Popen(
        [ENGINE, "serve", "--host", "0.0.0.0", "--port", str(ENGINE_PORT), "--db-path", DATA]
    )
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ENGINE_PORT)) == 0:
                return engine
        time.sleep(0.02)


def keep_joined() -> None:
    while True:
        seed = http.client.HTTPConnection(Node.seed or "", Node.port, timeout=2)
        try:
            seed.request("GET", "/join", headers={"Node": Node.address})
            seed.getresponse().read()
        except OSError:
            pass
        seed.close()
        time.sleep(JOIN_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
