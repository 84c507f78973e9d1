"""What processors did: counts and histograms by task type, of a minute or an hour."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

import msgspec

from chalicelib.histogram import Histogram

COUNTERS = ("started", "completed", "failed", "retried", "released", "leases_lost")


class Step(StrEnum):
    """How long a row counts. keep_s: how long it is kept after that."""

    MINUTE = "minute"
    HOUR = "hour"

    @property
    def ms(self) -> int:
        return 60_000 if self is Step.MINUTE else 3_600_000

    @property
    def keep_s(self) -> int:
        return 86_400 * (2 if self is Step.MINUTE else 90)


@dataclass(slots=True)
class Statistics:
    """Of tasks of one type, or of several.

    started: handlers. completed, failed, retried, released: attempts that were settled so.
    leases_lost: attempts that were not settled; counted by who claims the task next.
    lateness: of each task's first start. run_time: of the handlers whose attempts were settled.
    """

    started: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0
    leases_lost: int = 0
    lateness: Histogram = field(default_factory=Histogram)
    run_time: Histogram = field(default_factory=Histogram)

    @classmethod
    def of(
        cls,
        counters: Mapping[str, int],
        lateness_ms: Iterable[int] = (),
        run_time_ms: Iterable[int] = (),
    ) -> Self:
        """What was counted and measured."""
        self = cls()
        for name in COUNTERS:
            setattr(self, name, counters.get(name, 0))
        self.lateness.add(lateness_ms)
        self.run_time.add(run_time_ms)
        return self

    def merge(self, other: "Statistics") -> None:
        """Add all of the other one."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lateness.merge(other.lateness)
        self.run_time.merge(other.run_time)


ByType = Mapping[str, Statistics]


class StatisticsRow(NamedTuple):
    """What one processor did within a minute or an hour that starts at `start_ms`.

    part: a processor counts the rows that it begins, so that no two have the same key.
    text: see `encoded`.
    """

    step: Step
    start_ms: int
    processor: str
    part: int
    text: str


class StatisticsPage(NamedTuple):
    """is_complete: whether these are all rows that were asked for."""

    rows: Sequence[StatisticsRow]
    is_complete: bool = True


def encoded(types: ByType) -> str:
    """As one text: of each type the counters, lateness and run time."""
    return msgspec.json.encode({name: _values(one) for name, one in types.items()}).decode()


def decoded(text: str) -> ByType:
    """The reverse; what a newer version added behind is passed over. Raises ValueError."""
    try:
        return {
            name: _statistics(*values[:3]) for name, values in msgspec.json.decode(text).items()
        }
    except (AttributeError, TypeError, msgspec.DecodeError) as error:
        raise ValueError(f"statistics that cannot be read: {error!r}") from error


def _values(one: Statistics) -> list[Any]:
    counters = [getattr(one, name) for name in COUNTERS]
    return [counters, one.lateness.encoded(), one.run_time.encoded()]


def _statistics(
    counters: Sequence[int], lateness: Sequence[int], run_time: Sequence[int]
) -> Statistics:
    known = dict(zip(COUNTERS, counters, strict=False))
    return Statistics(
        **known, lateness=Histogram.decoded(lateness), run_time=Histogram.decoded(run_time)
    )
