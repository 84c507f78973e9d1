"""A histogram of milliseconds that can be merged, stored as short text and asked for percentiles.

Buckets grow by 12 %, so that a percentile is within 6 % of the exact one.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

LARGEST_MS = 100 * 366 * 86_400_000


def _bounds() -> tuple[int, ...]:
    bounds = [0, 1]
    while bounds[-1] < LARGEST_MS:
        bounds.append(max(bounds[-1] + 1, bounds[-1] * 28 // 25))
    return tuple(bounds)


BOUNDS = _bounds()
"""Bucket n holds whole milliseconds from BOUNDS[n] to before BOUNDS[n + 1]. They never change: rows
in the store are read by other versions."""
_BOUND_OF = partial(bisect_right, BOUNDS)


class Histogram:
    """count: how many values. sum_ms, max_ms: of all values; 0 without any."""

    __slots__ = ("_counts", "max_ms", "sum_ms")

    def __init__(self) -> None:
        self.sum_ms = 0
        self.max_ms = 0
        self._counts: dict[int, int] = {}

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def add(self, values_ms: Iterable[int]) -> None:
        """A negative value counts as 0."""
        values_ms = [min(max(0, ms), LARGEST_MS) for ms in values_ms]
        counts = self._counts
        for bound, count in Counter(map(_BOUND_OF, values_ms)).items():
            counts[bound - 1] = counts.get(bound - 1, 0) + count
        self.sum_ms += sum(values_ms)
        self.max_ms = max([self.max_ms, *values_ms])

    def merge(self, other: "Histogram") -> None:
        """Add all values of the other one."""
        counts = self._counts
        for bucket, count in other._counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        self.sum_ms += other.sum_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile_ms(self, part: float) -> int | None:
        """The value that this part of all values does not exceed; None without values."""
        rank, seen = max(1, math.ceil(part * self.count)), 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= rank:
                return min(self.max_ms, _middle_ms(bucket))
        return None

    def encoded(self) -> Sequence[int]:
        """Sum, maximum, then bucket and count of each bucket that holds any."""
        pairs = (number for pair in sorted(self._counts.items()) for number in pair)
        return [self.sum_ms, self.max_ms, *pairs]

    @classmethod
    def decoded(cls, numbers: Sequence[int]) -> "Histogram":
        """The reverse. Raises ValueError for what cannot be one."""
        self = cls()
        self.sum_ms, self.max_ms, *pairs = numbers
        self._counts = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if pairs and not 0 <= min(self._counts) <= max(self._counts) < len(BOUNDS):
            raise ValueError("a histogram with unknown buckets")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.encoded() == other.encoded()

    __hash__ = None  # type: ignore[assignment]


def _middle_ms(bucket: int) -> int:
    if bucket + 1 == len(BOUNDS):
        return BOUNDS[bucket]
    return (BOUNDS[bucket] + BOUNDS[bucket + 1] - 1) // 2
