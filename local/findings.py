"""What ledgers and the store say about the promise. Pure: no file, no store, no clock.

Attempts of one task are told apart by their claims, and put in order by the machine's monotonic
clock, which all ledgers of one machine share.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Self

from chalicelib.task import (
    FINISHED,
    KILL_AFTER_S,
    LEASE_MS,
    START_WITHIN_S,
    UNFINISHED,
    Outcome,
    Task,
)

EVENTS = frozenset({"claim", "start", "kill", "settle", "print"})
STORE_EVENTS = frozenset({"slow", "keeps_up"})
"""A process says that the store is slower than its load, and that this is over."""
DEATH = "death"
"""A line that whoever ended a process may add: its pid and when, by the monotonic clock."""


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


class Breach(NamedTuple):
    """kind: duplicate, early, lost or slow."""

    kind: str
    task: str
    what: str


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


@dataclass
class Findings:
    """What a check found. Only breaches break the promise.

    slow_s: how long each time lasted in which the store was slower than its load for a process.
    """

    tasks: int = 0
    executions: int = 0
    overlaps: int = 0
    late_starts: int = 0
    torn: int = 0
    unreadable: int = 0
    slow_s: list[float] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    lateness_ms: list[int] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)
    recovery_from_death_s: list[float] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        return not self.breaches

    def count(self, kind: str) -> int:
        """Tasks with a breach of this kind."""
        return len({breach.task for breach in self.breaches if breach.kind == kind})

    def line(self) -> str:
        parts = [
            f"{self.tasks} tasks",
            f"{self.executions} executions",
            f"{self.count('duplicate')} duplicates of effect",
            f"{self.count('early')} early starts",
            f"{self.overlaps} overlapping attempts",
            f"{self.count('lost')} lost tasks",
            _lateness(self.lateness_ms),
            _recovery(self.recovery_s, self.recovery_from_death_s),
        ]
        seldom = {
            "slow recoveries": self.count("slow"),
            "late starts": self.late_starts,
            "torn lines": self.torn,
            "unreadable records": self.unreadable,
        }
        parts += [f"{count} {what}" for what, count in seldom.items() if count]
        if self.slow_s:
            parts.append(f"store slow {len(self.slow_s)} x, {sum(self.slow_s):.0f} s")
        return f"{'kept' if self.is_kept else 'BROKEN'}: " + ", ".join(parts)


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


def judge(evidence: Evidence) -> Findings:
    findings = Findings(torn=evidence.torn, unreadable=len(evidence.unreadable))
    histories: dict[str, list[Event]] = defaultdict(list)
    for event in evidence.events:
        histories[event.task].append(event)
    known = {*evidence.tasks, *evidence.acknowledged, *histories} - {*evidence.unreadable}
    findings.tasks = len(known)
    died_s: dict[int, list[float]] = defaultdict(list)
    for death in evidence.deaths:
        died_s[death.pid].append(death.at_s)
    for id in sorted(known):
        task = evidence.tasks.get(id)
        findings.breaches += _lost(id, task, evidence)
        if id in histories:
            _judge_history(histories[id], task, died_s, findings, evidence.recovered_within_s)
    if evidence.lines is not None:
        findings.breaches += _surplus_lines(evidence.lines, evidence)
    findings.slow_s = list(_slow_times(evidence, died_s))
    return findings


def _slow_times(evidence: Evidence, died_s: Mapping[int, Sequence[float]]) -> Iterator[float]:
    """Times in which the store was slow for at least one process that lived."""
    ends = [Slow("keeps_up", pid, at_s) for pid, all_s in died_s.items() for at_s in all_s]
    since_s, slow_for = 0.0, set[int]()
    for one in sorted([*evidence.slow, *ends], key=lambda one: one.at_s):
        was_slow = bool(slow_for)
        if one.event == "slow":
            slow_for.add(one.pid)
        else:
            slow_for.discard(one.pid)
        if slow_for and not was_slow:
            since_s = one.at_s
        if was_slow and not slow_for:
            yield one.at_s - since_s
    if slow_for:
        last_s = max((event.at_s for event in evidence.events), default=since_s)
        yield max(0.0, last_s - since_s)


def _judge_history(
    events: Sequence[Event],
    task: Task | None,
    died_s: Mapping[int, Sequence[float]],
    findings: Findings,
    recovered_within_s: float | None,
) -> None:
    """Add what the events of one task tell."""
    attempts = _attempts(events)
    starts = [event for event in events if event.event == "start"]
    findings.executions += len(starts)
    findings.late_starts += sum(attempt.is_late_start for attempt in attempts)
    findings.breaches += [
        Breach("early", start.task, f"started {start.send_ts_ms - start.at_ms} ms early")
        for start in starts
        if start.at_ms < start.send_ts_ms
    ]
    findings.breaches += [
        Breach("duplicate", events[0].task, what) for what in _duplicates(attempts, task)
    ]
    if starts:
        first = min(starts, key=lambda start: start.at_s)
        # Nothing can start before it exists.
        wanted_ms = max(first.send_ts_ms, task.created_ts_ms if task else first.send_ts_ms)
        findings.lateness_ms.append(first.at_ms - wanted_ms)
    findings.overlaps += _overlaps(attempts, died_s)
    for recovery_s, from_death_s in _recoveries(attempts, died_s):
        findings.recovery_s.append(recovery_s)
        if from_death_s is None:
            continue
        findings.recovery_from_death_s.append(from_death_s)
        if recovered_within_s is not None and from_death_s > recovered_within_s:
            what = f"claimed again {from_death_s:.1f} s after its processor's death"
            findings.breaches.append(Breach("slow", events[0].task, what))


def _attempts(events: Sequence[Event]) -> list[Attempt]:
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


def _duplicates(attempts: Sequence[Attempt], task: Task | None) -> Iterator[str]:
    """Whatever had, or could have had, an effect more than once."""
    finishers = {attempt.claim.claim: attempt.claim.attempt for attempt in attempts
                 if attempt.has_finished
                 and attempt.claim.attempt not in _run_again(task)}  # fmt: skip
    if task is not None and task.finished_ts_ms is not None and task.claim is not None:
        finishers[task.claim] = task.attempt
    if len(finishers) > 1:
        yield f"finished by {len(finishers)} claims"
    if finishers and task is not None and task.state in UNFINISHED:
        yield f"finished, then {task.state} again"
    if any(_is_older(task, attempt) for attempt in attempts):
        yield "finished by an attempt before the one that held it"
    yield from _wrong_prints(attempts, finishers, task)
    yield from _stale_settlements(attempts)
    numbers = Counter(attempt.claim.attempt for attempt in attempts)
    yield from (f"attempt {number} claimed twice" for number, n in numbers.items() if n > 1)
    last = min(finishers.values(), default=math.inf)
    if any(attempt.claim.attempt > last for attempt in attempts):
        yield f"claimed again although attempt {last} finished it"


def _run_again(task: Task | None) -> Collection[int]:
    """Attempts that failed the task for good, before somebody asked to run it again."""
    if task is None:
        return ()
    failed = [one.number for one in task.attempts if one.outcome is Outcome.FAILED]
    return failed if task.state in UNFINISHED else [n for n in failed if n != task.attempt]


def _is_older(task: Task | None, attempt: Attempt) -> bool:
    """Whether the outcome was written by this claim's clock before it was granted."""
    if task is None or task.finished_ts_ms is None or task.claim != attempt.claim.claim:
        return False
    return attempt.claim.event == "claim" and task.finished_ts_ms < attempt.claim.at_ms


def _wrong_prints(
    attempts: Sequence[Attempt], finishers: Collection[str], task: Task | None
) -> Iterator[str]:
    prints = [event for attempt in attempts for event in attempt.prints]
    if len(prints) > 1:
        yield f"printed {len(prints)} times"
    for event in prints:
        if not finishers:
            yield "printed without being committed"
        elif event.claim not in finishers:
            yield "printed by another claim than the one that committed"
        elif task is not None and task.result != event.line:
            yield "printed another line than the one that was committed"


def _stale_settlements(attempts: Sequence[Attempt]) -> Iterator[str]:
    for earlier, later in pairwise(attempts):
        settle = earlier.settle
        if settle and settle.committed and settle.began_s > later.claim.at_s:
            yield "settled by a claim that held no more"


def _surplus_lines(lines: Iterable[str], evidence: Evidence) -> Iterator[Breach]:
    committed = Counter(task.result for task in evidence.tasks.values() if task.result is not None)
    for line, count in (Counter(lines) - committed).items():
        what = f"printed {count} times more often than committed"
        yield Breach("duplicate", f"line {line!r}", what)


def _overlaps(attempts: Sequence[Attempt], died_s: Mapping[int, Sequence[float]]) -> int:
    """Attempts that started while another one of the task still ran."""
    runs = [attempt.running_s(_death_of(attempt, died_s)) for attempt in attempts]
    count, busy_until_s = 0, -math.inf
    for start_s, end_s in sorted(run for run in runs if run is not None):
        count += start_s < busy_until_s
        busy_until_s = max(busy_until_s, end_s)
    return count


def _recoveries(
    attempts: Sequence[Attempt], died_s: Mapping[int, Sequence[float]]
) -> Iterator[tuple[float, float | None]]:
    """How long after its lease, and after its processor's death, each lost attempt was followed."""
    for lost, following in pairwise(attempts):
        if not lost.was_lost or following.claim.attempt != lost.claim.attempt + 1:
            continue
        at_s = following.claim.at_s
        death_s = _death_of(lost, died_s)
        has_died = death_s is not None and death_s <= at_s
        from_death_s = at_s - death_s if has_died and death_s is not None else None
        yield max(0.0, at_s - lost.lease_end_s), from_death_s


def _death_of(attempt: Attempt, died_s: Mapping[int, Sequence[float]]) -> float | None:
    after = [at_s for at_s in died_s.get(attempt.claim.pid, ()) if at_s >= attempt.claim.at_s]
    return min(after, default=None)


def _lost(id: str, task: Task | None, evidence: Evidence) -> Iterator[Breach]:
    if task is None:
        yield Breach("lost", id, "is not in the store")
    elif task.state in UNFINISHED and task.due_at_ms is None:
        yield Breach("lost", id, f"{task.state}, and never due")
    elif task.state in UNFINISHED and task.due_at_ms is not None:
        overdue_s = (evidence.now_ms - task.due_at_ms) / 1000
        if overdue_s > evidence.grace_s:
            yield Breach("lost", id, f"{task.state}, and due for {overdue_s:.1f} s")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _lateness(lateness_ms: Sequence[int]) -> str:
    if not lateness_ms:
        return "lateness unknown"
    p50, p99 = (round(percentile(lateness_ms, share)) for share in (0.5, 0.99))
    return f"lateness p50 {p50} ms p99 {p99} ms max {max(lateness_ms)} ms"


def _recovery(after_lease_s: Sequence[float], after_death_s: Sequence[float]) -> str:
    if not after_lease_s:
        return "nothing to recover"
    text = f"slowest recovery {max(after_lease_s):.1f} s after the lease"
    if after_death_s:
        text += f" and {max(after_death_s):.1f} s after the death"
    return text
