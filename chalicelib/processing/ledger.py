"""What processors did, as append-only lines of JSON: the evidence that the promise was kept.

Each line is one write to a file opened for appending, so that processes can share the file and
a line is whole or not there. Times are what the writer took for the store's time (`at_ms`) and the
machine's monotonic clock (`at_s`).
"""

import json
import logging
import os
from typing import Any, Protocol

from chalicelib.clock import Clock
from chalicelib.errors import InvalidSetting
from chalicelib.task import Task
from chalicelib.throttle import Throttle

log = logging.getLogger(__name__)


class Record(Protocol):
    """Takes note of an event of an attempt.

    event: claim (granted), start (of the handler), kill (at the timeout), settle (more: state,
    began_s: when it was first sent, committed: true, false, or null when the answer was lost),
    print (more: line). Without a task, of a process: death (more: its pid); of the store: slow (it
    is slower than its load; more: waiting, requests, latency_s, delay_s), keeps_up (that is over;
    more: lasted_s, waiting).
    task: as the event left it or, for a settlement, as it is to become.
    """

    def __call__(self, event: str, task: Task | None, **more: Any) -> None: ...


def no_record(event: str, task: Task | None, **more: Any) -> None:
    """Nobody wants to know."""


def both(first: Record, second: Record) -> Record:
    """Tells two of every event."""
    if first is no_record:
        return second

    def record(event: str, task: Task | None, **more: Any) -> None:
        first(event, task, **more)
        second(event, task, **more)

    return record


class Ledger:
    """A Record in a file. Work goes on without it: what it cannot write, it counts.

    lost: how many events were not written, or not as a whole.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        """Raises InvalidSetting if it cannot be opened."""
        self.lost = 0
        self._path = path
        self._clock = clock
        self._pid = os.getpid()
        self._throttle = Throttle()
        # A pipe that nobody empties must not hold up anybody.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            message = f"--ledger {path}: it cannot be written ({error.strerror})"
            raise InvalidSetting(message) from error

    def __call__(self, event: str, task: Task | None, **more: Any) -> None:
        line = {
            "event": event,
            **(_of(task) if task is not None else {}),
            "at_ms": self._clock.now_ms(),
            "at_s": self._clock.monotonic_s(),
            "pid": self._pid,
            **more,
        }
        self._write(json.dumps(line).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        """The next line stands right behind one that was cut: its reader knows where it begins."""
        try:
            if os.write(self._file, line) < len(line):
                self._miss("a line was cut")
        except OSError as error:
            self._miss(error.strerror)

    def _miss(self, why: str | None) -> None:
        self.lost += 1
        if self._throttle.admits(self._clock.monotonic_s()):
            text = "%d events could not be written to the ledger %s (%s)"
            extra = {"action": "ledger_lost", "events": self.lost}
            log.warning(text, self.lost, self._path, why, extra=extra)

    def close(self) -> None:
        os.close(self._file)


def _of(task: Task) -> dict[str, Any]:
    return {
        "task": task.id,
        "type": task.type,
        "attempt": task.attempt,
        "claim": task.claim,
        "processor": task.processor,
        "send_ts_ms": task.send_ts_ms,
        "due_at_ms": task.due_at_ms,
    }
