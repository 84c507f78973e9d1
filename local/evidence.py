"""What there is to judge: the events of ledgers, the deaths of processes, the records of the store.

Pure: no file, no store, no clock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from chalicelib.task import Task

EVENTS = frozenset({"claim", "start", "kill", "settle", "print"})
STORE_EVENTS = frozenset({"slow", "keeps_up"})
"""A process says that the store is slower than its load, and that this is over."""
DEATH = "death"
"""A line of the supervisor, or of whoever ended a process: its pid and when, monotonic."""


class Event(NamedTuple):
    """One line of a ledger. state, began_s, committed are of a settlement; line of a print."""

    event: str
    task: str
    attempt: int
    claim: str
    processor: str
    send_ts_ms: int
    due_at_ms: int | None
    at_ms: int
    at_s: float
    pid: int
    state: str = ""
    began_s: float = 0.0
    committed: bool | None = None
    line: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError or ValueError if it is no event."""
        if data["event"] not in EVENTS:
            raise ValueError(f"unknown event {data['event']!r}")
        values = {name: data[name] for name in cls._fields[:10]}
        more = {name: data[name] for name in cls._fields[10:] if name in data}
        return cls(**values, **more)


class Death(NamedTuple):
    pid: int
    at_s: float


class Slow(NamedTuple):
    """event: of STORE_EVENTS."""

    event: str
    pid: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is to be judged.

    tasks: all records of the store by id, tombstones included. acknowledged: ids that clients
    were told. lines: what was printed, None if that is not known. unreadable: ids of records of
    a newer version. grace_s: a task unfinished for longer than this after it was due is lost.
    recovered_within_s: how long after its processor's death a task may be claimed again, None
    for any time.
    """

    events: Sequence[Event]
    tasks: Mapping[str, Task]
    now_ms: int
    deaths: Sequence[Death] = ()
    slow: Sequence[Slow] = ()
    acknowledged: Collection[str] = ()
    lines: Sequence[str] | None = None
    unreadable: Collection[str] = ()
    torn: int = 0
    grace_s: float = 30.0
    recovered_within_s: float | None = None
