"""Whether the promise was kept: evidence in, findings out. Pure, as both are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from chalicelib.task import UNFINISHED, Task
from local.duplicates import duplicates
from local.evidence import Event, Evidence, Slow
from local.findings import Breach, Findings
from local.history import (
    Attempt,
    Deaths,
    attempts_of,
    by_task,
    deaths_of,
    overlaps,
    recoveries,
)


def judge(evidence: Evidence) -> Findings:
    """All that the evidence says, task by task."""
    findings = Findings(torn=evidence.torn, unreadable=len(evidence.unreadable))
    histories, died_s = by_task(evidence.events), deaths_of(evidence.deaths)
    known = {*evidence.tasks, *evidence.acknowledged, *histories} - {*evidence.unreadable}
    findings.tasks = len(known)
    for id in sorted(known):
        task = evidence.tasks.get(id)
        findings.breaches += _lost(id, task, evidence)
        if id in histories:
            _judge_history(histories[id], task, died_s, findings, evidence.recovered_within_s)
    if evidence.lines is not None:
        findings.breaches += _surplus_lines(evidence.lines, evidence)
    findings.slow_s = list(_slow_times(evidence, died_s))
    return findings


def _judge_history(
    events: Sequence[Event],
    task: Task | None,
    died_s: Deaths,
    findings: Findings,
    recovered_within_s: float | None,
) -> None:
    """Add what the events of one task tell."""
    attempts = attempts_of(events)
    starts = [event for event in events if event.event == "start"]
    findings.executions += len(starts)
    findings.late_starts += sum(attempt.is_late_start for attempt in attempts)
    findings.breaches += [
        Breach("early", start.task, f"started {start.send_ts_ms - start.at_ms} ms early")
        for start in starts
        if start.at_ms < start.send_ts_ms
    ]
    findings.breaches += [
        Breach("duplicate", events[0].task, what) for what in duplicates(attempts, task)
    ]
    if starts:
        first = min(starts, key=lambda start: start.at_s)
        # Nothing can start before it exists.
        wanted_ms = max(first.send_ts_ms, task.created_ts_ms if task else first.send_ts_ms)
        findings.lateness_ms.append(first.at_ms - wanted_ms)
    findings.overlaps += overlaps(attempts, died_s)
    _judge_recoveries(attempts, died_s, findings, recovered_within_s)


def _judge_recoveries(
    attempts: Sequence[Attempt],
    died_s: Deaths,
    findings: Findings,
    recovered_within_s: float | None,
) -> None:
    for recovery in recoveries(attempts, died_s):
        findings.recovery_s.append(max(0.0, recovery.after_lease_s))
        findings.taken_over += recovery.is_takeover
        if recovery.claimed_s is None:
            continue
        findings.recovery_from_death_s.append(recovery.claimed_s)
        if recovered_within_s is not None and recovery.claimed_s > recovered_within_s:
            what = f"claimed again {recovery.claimed_s:.1f} s after its processor's death"
            findings.breaches.append(Breach("slow", attempts[0].claim.task, what))


def _surplus_lines(lines: Iterable[str], evidence: Evidence) -> Iterator[Breach]:
    committed = Counter(task.result for task in evidence.tasks.values() if task.result is not None)
    for line, count in (Counter(lines) - committed).items():
        what = f"printed {count} times more often than committed"
        yield Breach("duplicate", f"line {line!r}", what)


def _lost(id: str, task: Task | None, evidence: Evidence) -> Iterator[Breach]:
    if task is None:
        yield Breach("lost", id, "is not in the store")
    elif task.state in UNFINISHED and task.due_at_ms is None:
        yield Breach("lost", id, f"{task.state}, and never due")
    elif task.state in UNFINISHED and task.due_at_ms is not None:
        overdue_s = (evidence.now_ms - task.due_at_ms) / 1000
        if overdue_s > evidence.grace_s:
            yield Breach("lost", id, f"{task.state}, and due for {overdue_s:.1f} s")


def _slow_times(evidence: Evidence, died_s: Deaths) -> Iterator[float]:
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
