"""What the events of one task tell: its attempts, how they overlapped, how soon each was followed.

Attempts are told apart by their claims, and put in order by the machine's monotonic clock, which
all ledgers of one machine share.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from chalicelib.attempts import KILL_AFTER_S, LEASE_MS, START_WITHIN_S
from chalicelib.task import FINISHED
from local.evidence import Death, Event

Deaths = Mapping[int, Sequence[float]]
"""When processes died, by pid, on the monotonic clock."""


@dataclass
class Attempt:
    """What is known about one claim of a task."""

    claim: Event
    start: Event | None = None
    kill: Event | None = None
    settle: Event | None = None
    prints: list[Event] = field(default_factory=list)

    @property
    def lease_end_s(self) -> float:
        if self.claim.due_at_ms is None:
            return self.claim.at_s + LEASE_MS / 1000
        return self.claim.at_s + (self.claim.due_at_ms - self.claim.at_ms) / 1000

    @property
    def has_finished(self) -> bool:
        """Whether it committed the task's outcome."""
        return bool(self.settle and self.settle.committed and self.settle.state in FINISHED)

    @property
    def was_lost(self) -> bool:
        """Whether only the end of its lease can have freed the task."""
        return self.settle is None or self.settle.committed is False

    @property
    def is_late_start(self) -> bool:
        claimed_ms = (self.claim.due_at_ms or math.inf) - LEASE_MS
        return self.start is not None and self.start.at_ms - claimed_ms > START_WITHIN_S * 1000

    def running_s(self, died_s: float | None) -> tuple[float, float] | None:
        """From when to when its handler ran, at most."""
        if self.start is None:
            return None
        ends = [self.lease_end_s - LEASE_MS / 1000 + KILL_AFTER_S]
        if self.settle is not None:
            ends = [self.settle.began_s]
        if self.kill is not None:
            ends = [self.kill.at_s]
        if died_s is not None:
            ends.append(died_s)
        return self.start.at_s, max(self.start.at_s, min(ends))


class Recovery(NamedTuple):
    """How a lost attempt was followed by the next one.

    pid: of the process that lost it. after_lease_s: from the end of its lease to the next claim;
    negative if that came before. claimed_s, started_s: from the death of the process to the next
    claim, and to the start of its handler; None if it did not die, or nothing was started.
    """

    pid: int
    after_lease_s: float
    claimed_s: float | None
    started_s: float | None

    @property
    def is_takeover(self) -> bool:
        """Nothing else takes a task of the dead before its lease has expired."""
        return self.claimed_s is not None and self.after_lease_s < 0


def by_task(events: Iterable[Event]) -> dict[str, list[Event]]:
    histories: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        histories[event.task].append(event)
    return histories


def deaths_of(deaths: Iterable[Death]) -> Deaths:
    died_s: dict[int, list[float]] = defaultdict(list)
    for death in deaths:
        died_s[death.pid].append(death.at_s)
    return died_s


def attempts_of(events: Sequence[Event]) -> list[Attempt]:
    """By claim, in order. What is known only from later on stands in for a missing claim."""
    attempts: dict[str, Attempt] = {}
    for event in sorted(events, key=lambda event: event.at_s):
        attempt = attempts.setdefault(event.claim, Attempt(event))
        if event.event == "start":
            attempt.start = event
        elif event.event == "kill":
            attempt.kill = event
        elif event.event == "settle":
            attempt.settle = event
        elif event.event == "print":
            attempt.prints.append(event)
    return sorted(attempts.values(), key=lambda attempt: attempt.claim.at_s)


def overlaps(attempts: Sequence[Attempt], died_s: Deaths) -> int:
    """Attempts that started while another one of the task still ran."""
    runs = [attempt.running_s(_death_of(attempt, died_s)) for attempt in attempts]
    count, busy_until_s = 0, -math.inf
    for start_s, end_s in sorted(run for run in runs if run is not None):
        count += start_s < busy_until_s
        busy_until_s = max(busy_until_s, end_s)
    return count


def recoveries(attempts: Sequence[Attempt], died_s: Deaths) -> Iterator[Recovery]:
    """Of each lost attempt that was followed."""
    for lost, following in pairwise(attempts):
        if not lost.was_lost or following.claim.attempt != lost.claim.attempt + 1:
            continue
        at_s, death_s = following.claim.at_s, _death_of(lost, died_s)
        if death_s is None or death_s > at_s:
            yield Recovery(lost.claim.pid, at_s - lost.lease_end_s, None, None)
            continue
        started_s = following.start.at_s - death_s if following.start else None
        yield Recovery(lost.claim.pid, at_s - lost.lease_end_s, at_s - death_s, started_s)


def all_recoveries(events: Iterable[Event], deaths: Iterable[Death]) -> list[Recovery]:
    """Of all tasks."""
    died_s = deaths_of(deaths)
    histories = by_task(events).values()
    return [one for some in histories for one in recoveries(attempts_of(some), died_s)]


def _death_of(attempt: Attempt, died_s: Deaths) -> float | None:
    after = [at_s for at_s in died_s.get(attempt.claim.pid, ()) if at_s >= attempt.claim.at_s]
    return min(after, default=None)
