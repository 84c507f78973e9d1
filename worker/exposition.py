"""Serves the metrics of a worker over HTTP, from a process of its own, and whether it is well.

GET /metrics: what Prometheus reads. GET /healthz: 200 while the worker shows life, else 503.
"""

import logging
import multiprocessing
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any, Self

from chalicelib.clock import Clock
from chalicelib.errors import InvalidSetting
from worker import metrics
from worker.ending import die_with, ending_signals
from worker.life import FRESH_S

log = logging.getLogger(__name__)

RESTART_WAIT_S = 1.0
REQUEST_WITHIN_S = 10.0
TEXT = "text/plain; charset=utf-8"

_processes = multiprocessing.get_context("fork")


class Exposition:
    """Made by the supervisor before its first child. address: where it listens."""

    def __init__(self, folder: str, listener: socket.socket, clock: Clock) -> None:
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._folder = folder
        self._listener = listener
        self._clock = clock
        self._shown_s: Any = RawValue("d", float("-inf"))
        self._process: ForkProcess | None = None
        self._start_at_s = float("-inf")

    @classmethod
    def open(cls, port: int, clock: Clock) -> Self:
        """Raises InvalidSetting if the port cannot be had, or no folder be made."""
        try:
            listener = socket.create_server(("", port))
        except OSError as error:
            message = f"--metrics {port}: it cannot listen there ({error.strerror})"
            raise InvalidSetting(message) from error
        try:
            folder = tempfile.mkdtemp(prefix="worker-metrics-")
        except OSError as error:
            listener.close()
            message = f"--metrics {port}: no temporary folder can be made ({error.strerror})"
            raise InvalidSetting(message) from error
        metrics.share(folder)
        return cls(folder, listener, clock)

    def show_life(self) -> None:
        """All is well now."""
        self._shown_s.value = self._clock.monotonic_s()

    def look(self) -> None:
        """Start the process that serves, if there is none."""
        now_s = self._clock.monotonic_s()
        if self._process is not None and self._process.exitcode is not None:
            log.warning("metrics are not served", extra={"action": "metrics_ended"})
            self._process.close()
            self._process = None
        if self._process is None and now_s >= self._start_at_s:
            self._start_at_s = now_s + RESTART_WAIT_S
            self._process = _processes.Process(target=self._serve, name="metrics")
            self._process.start()

    def forget(self, place: int) -> None:
        """The process of this place is dead: what it was just now counts no more."""
        from prometheus_client import multiprocess

        forget: Any = multiprocess.mark_process_dead
        forget(place, self._folder)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def is_well(self) -> bool:
        """Whether life was shown lately."""
        shown_s: float = self._shown_s.value
        return self._clock.monotonic_s() - shown_s <= FRESH_S

    def _serve(self) -> None:
        """In a process of its own, as long as the supervisor lives."""
        for number in ending_signals():
            signal.signal(number, signal.SIG_IGN)  # It serves until the others have drained.
        die_with()
        server = ThreadingHTTPServer(self.address, _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = self._listener
        server.daemon_threads = True
        vars(server)["answers"] = {"/metrics": self._metrics, "/healthz": self._health}
        server.serve_forever()

    def _metrics(self) -> tuple[int, str, bytes]:
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        registry = CollectorRegistry()
        collect: Any = multiprocess.MultiProcessCollector
        collect(registry, self._folder)
        return 200, CONTENT_TYPE_LATEST, generate_latest(registry)

    def _health(self) -> tuple[int, str, bytes]:
        return (200, TEXT, b"ok\n") if self.is_well() else (503, TEXT, b"no sign of life\n")


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_WITHIN_S

    def do_GET(self) -> None:
        answers: dict[str, Callable[[], tuple[int, str, bytes]]] = vars(self.server)["answers"]
        answer = answers.get(self.path.partition("?")[0])
        status, content_type, body = answer() if answer else (404, TEXT, b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know."""
