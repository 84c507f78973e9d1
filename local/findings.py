"""What a check of the promise found, and how it says so in one line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Breach(NamedTuple):
    """kind: duplicate, early, lost or slow."""

    kind: str
    task: str
    what: str


@dataclass
class Findings:
    """What a check found. Only breaches break the promise.

    taken_over: attempts lost by processes that died, claimed again before their lease expired.
    slow_s: how long each time lasted in which the store was slower than its load for a process.
    """

    tasks: int = 0
    executions: int = 0
    overlaps: int = 0
    taken_over: int = 0
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
