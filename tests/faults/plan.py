"""Which faults the proxy injects, and how often: data that goes to it as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Self

PAGED = frozenset({"Query", "Scan"})

FAULTS = (
    "error_before",
    "error_after",
    "reset_after",
    "silence_after",
    "late",
    "delay",
    "throttle",
    "black_hole",
)
"""What can happen to any request.

error_before: 500, not applied. error_after, reset_after, silence_after: applied, then a 500, a
reset, no answer. late: 500 now, applied after a while. delay: applied and answered after a while.
throttle: RequestLimitExceeded, not applied. black_hole: no answer, not applied.
"""
EMPTY_PAGE = "empty_page"
"""Of Query and Scan: no rows, and a key to go on from that loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Rates of faults, for requests of one operation (`*`: any) whose body contains a text."""

    rates: Mapping[str, float]
    operation: str = "*"
    containing: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.rates) - {*FAULTS, EMPTY_PAGE}
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}")
        if not 0 <= sum(self.rates.values()) <= 1 + 1e-9:
            raise ValueError(f"the rates of {self.operation} are not within 0 and 1")

    def fits(self, operation: str, body: bytes) -> bool:
        return self.operation in ("*", operation) and self.containing.encode() in body


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The first rule that fits a request decides.

    late_s, delay_s: between which seconds. blackout: every request gets `silence` or a `reset`.
    """

    rules: tuple[Rule, ...] = ()
    late_s: tuple[float, float] = (1.0, 8.0)
    delay_s: tuple[float, float] = (0.05, 1.0)
    blackout: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """From JSON. Raises ValueError or TypeError if it is no plan."""
        if data.get("blackout", "") not in ("", "silence", "reset"):
            raise ValueError(f"blackout {data['blackout']!r}: expected silence or reset")
        rules = tuple(Rule(**rule) for rule in data.get("rules", ()))
        spans = {name: tuple(data[name]) for name in ("late_s", "delay_s") if name in data}
        return cls(rules=rules, blackout=data.get("blackout", ""), **spans)

    def data(self) -> dict[str, Any]:
        return asdict(self)


def evenly(rate: float, faults: Iterable[str] = FAULTS) -> Plan:
    """This share of the requests of every operation fails, each fault as often as the others."""
    any_request = tuple(faults)
    paged = (*any_request, EMPTY_PAGE)
    rules = [
        Rule(operation=operation, rates=dict.fromkeys(paged, rate / len(paged)))
        for operation in sorted(PAGED)
    ]
    rules.append(Rule(rates=dict.fromkeys(any_request, rate / len(any_request))))
    return Plan(rules=tuple(rules))


@dataclass
class Dice:
    """Draws the faults. The same seed and the same requests in the same order: the same faults."""

    plan: Plan
    seed: int = 0
    _rng: Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)

    def draw(self, operation: str, body: bytes) -> tuple[str, float]:
        """A fault, or "" for none, and a number in [0, 1) for how long it takes."""
        share, amount = self._rng.random(), self._rng.random()
        for rule in self.plan.rules:
            if rule.fits(operation, body):
                return _chosen(rule.rates, share), amount
        return "", amount


def _chosen(rates: Mapping[str, float], share: float) -> str:
    for fault, rate in rates.items():
        if share < rate:
            return fault
        share -= rate
    return ""
