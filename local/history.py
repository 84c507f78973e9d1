"""What the events of one task tell: its attempts, how they overlapped, how soon each was followed.

Attempts are told apart by their claims, and put in order by the machine's monotonic clock, which
all ledgers of one machine share.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chalicelib.attempts import KILL_AFTER_S, LEASE_MS, START_WITHIN_S
from chalicelib.task import FINISHED
from local.evidence import Event

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


def recoveries(attempts: Sequence[Attempt], died_s: Deaths) -> Iterator[tuple[float, float | None]]:
    """How long after its lease, and after its processor's death, each lost attempt was followed."""
    for lost, following in pairwise(attempts):
        if not lost.was_lost or following.claim.attempt != lost.claim.attempt + 1:
            continue
        at_s = following.claim.at_s
        death_s = _death_of(lost, died_s)
        has_died = death_s is not None and death_s <= at_s
        from_death_s = at_s - death_s if has_died and death_s is not None else None
        yield max(0.0, at_s - lost.lease_end_s), from_death_s


def _death_of(attempt: Attempt, died_s: Deaths) -> float | None:
    after = [at_s for at_s in died_s.get(attempt.claim.pid, ()) if at_s >= attempt.claim.at_s]
    return min(after, default=None)
