"""What processors did, as append-only lines of JSON: the evidence that the promise was kept.

Each line is one write to a file opened for appending, so that processes can share the file and
a line is whole or not there. Times are the writer's own clock (`at_ms`) and the machine's
monotonic one (`at_s`).
"""

import json
import os
from typing import Any, Protocol

from chalicelib.clock import Clock
from chalicelib.task import Task


class Record(Protocol):
    """Takes note of an event of an attempt.

    event: claim (granted), start (of the handler), kill (at the timeout), settle (more: state,
    began_s: when it was first sent, committed: true, false, or null when the answer was lost),
    print (more: line). Of the store, without a task: slow (it is slower than its load; more:
    waiting, requests, latency_s, delay_s), keeps_up (that is over; more: lasted_s, waiting).
    task: as the event left it or, for a settlement, as it is to become.
    """

    def __call__(self, event: str, task: Task | None, **more: Any) -> None: ...


def no_record(event: str, task: Task | None, **more: Any) -> None:
    """Nobody wants to know."""


class Ledger:
    """A Record in a file."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._clock = clock
        self._pid = os.getpid()

    def __call__(self, event: str, task: Task | None, **more: Any) -> None:
        line = {
            "event": event,
            **(_of(task) if task is not None else {}),
            "at_ms": self._clock.now_ms(),
            "at_s": self._clock.monotonic_s(),
            "pid": self._pid,
            **more,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")

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
