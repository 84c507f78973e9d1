"""Structured logs: one JSON object a line, on stderr.

Every line has a sentence (`message`) and an `action` that machines can key on. Of one kind, ten
lines within ten seconds are written; one line then counts the others. Lines about writes of known
callers, and metrics, are all written. What is logged for a request, or for its task, has its
`request_id`.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chalicelib.clock import Clock, SystemClock
from chalicelib.output import Outlet, TextOutlet
from chalicelib.request_id import REQUEST_ID

WAITING_MAX = 1_000
"""How many lines may wait for a stalled reader; further ones are dropped and counted."""
FLUSH_WITHIN_S = 0.5
WHOLE_MAX = 10
WITHIN_S = 10.0
ALWAYS_WHOLE = frozenset({"metrics", "write"})
"""Actions of which each line is written."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Everything given as `extra` becomes a key of the line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@dataclass(slots=True)
class Kind:
    """Records of one kind since then. last: the last one that was not let through."""

    since_s: float
    count: int = 0
    last: logging.LogRecord | None = None


class Repeats:
    """Lets the first ten records of a kind through, and sums the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kinds: dict[tuple[Any, ...], Kind] = {}

    def admits(self, record: logging.LogRecord) -> bool:
        action = getattr(record, "action", None)
        if action in ALWAYS_WHOLE:
            return True
        key = (record.name, record.levelno, action, record.msg)
        kind = self._kinds.setdefault(key, Kind(self._clock.monotonic_s()))
        kind.count += 1
        if kind.count <= WHOLE_MAX:
            return True
        kind.last = record
        return False

    def summaries(self, *, is_end: bool = False) -> Iterator[logging.LogRecord]:
        """One record for each kind that had some held back and whose ten seconds are over."""
        now_s = self._clock.monotonic_s()
        for key, kind in list(self._kinds.items()):
            if is_end or now_s - kind.since_s >= WITHIN_S:
                del self._kinds[key]
                if kind.last is not None:
                    yield _summed(kind.last, kind.count - WHOLE_MAX, now_s - kind.since_s)


class Handler(logging.StreamHandler[Any]):
    """Writes to stderr, or to an outlet, which never makes anybody wait."""

    def __init__(self, clock: Clock, outlet: Outlet | None = None) -> None:
        stream: Any = sys.stderr if outlet is None else TextOutlet(outlet)
        super().__init__(stream)
        self._outlet = outlet
        self._repeats = Repeats(clock)
        self._told_lost = 0
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if (request_id := REQUEST_ID.get()) is not None:
            vars(record).setdefault("request_id", request_id)
        self.look()
        if self._repeats.admits(record):
            super().emit(record)

    def look(self, *, is_end: bool = False) -> None:
        """Tell what was held back for long enough, and how many lines are lost."""
        with self.lock or contextlib.nullcontext():
            for record in self._repeats.summaries(is_end=is_end):
                super().emit(record)
            lost = self._outlet.lost if self._outlet else 0
            if self._outlet and lost > self._told_lost and self._outlet.waiting < WAITING_MAX // 2:
                self._told_lost = lost
                text = f"{lost} log lines could not be written"
                super().emit(_record(logging.WARNING, __name__, text, action="log_lost"))

    def close(self) -> None:
        """Wait half a second for the lines that wait."""
        self.look(is_end=True)
        if self._outlet:
            self._outlet.flush(0.0 if self._outlet.is_stalled else FLUSH_WITHIN_S)
        super().close()


def set_up(outlet: Outlet | None = None, clock: Clock | None = None) -> Handler:
    """Send all logs of this process to stderr, in place of whatever handlers there were.

    outlet: of stderr; if given, what is printed there goes through it too, and nothing waits.
    """
    handler = Handler(clock or SystemClock(), outlet)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    if outlet is not None:
        sys.stderr = handler.stream
    return handler


def set_up_apart(clock: Clock) -> Handler:
    """The same for a process that must not wait for its stderr."""
    return set_up(Outlet(2, clock, WAITING_MAX), clock)


def look() -> None:
    """Call it about once a second, for lines that were held back."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.look()


def _record(level: int, logger: str, text: str, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(logger, level, "", 0, text, None, None)
    vars(made).update(extra)
    return made


def _summed(last: logging.LogRecord, count: int, seconds: float) -> logging.LogRecord:
    """What stands for records that were held back."""
    text = f"{count} more like this in {seconds:.0f} s, the last: {last.getMessage()}"
    extra = {key: value for key, value in vars(last).items() if key not in _STANDARD}
    return _record(last.levelno, last.name, text, **extra, repeated=count)
