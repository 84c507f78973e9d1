"""The timeline: what lists walk, in partitions that are as fine as the tasks are dense.

    partition <kind>                        level 0: tasks of any time
    partition <kind>/1<day>                 level 1: tasks of a day
    partition <kind>/2<hour>                level 2
    partition <kind>/3<10 minutes>/<part>   level 3

Kinds are `all` (every task), `open` (unfinished ones) and `failed`. A row is put at the deepest
level that has been opened for its time (`density.py`). A bucket of level 1 and deeper is read if
the partition above names it, at both of its ends: with `<start>!` and `<last>~`, which sort before
and behind the rows of its tasks. So whoever walks, in either direction, meets its name before its
rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chalicelib.store.alternator.rows import Row, at, start_of, time_key, time_of
from chalicelib.task import shard_of


class Level(NamedTuple):
    """span_ms: what one bucket of this level holds. parts: in so many partitions."""

    span_ms: int
    parts: int


LEVELS = (Level(0, 1), Level(86_400_000, 1), Level(3_600_000, 1), Level(600_000, 4))
"""A list reads all parts of a bucket, and drained ones of `open` stay for a while: more of them
cost each list, fewer would leave the puts of ten minutes to few cores of the store."""
DAY = 1
DEEPEST = len(LEVELS) - 1
CLOSE_AFTER_MS = 300_000
"""A drained bucket may be closed this long after it is over: clocks differ, and a row can be under
way."""
START, END = "!", "~"


@dataclass(frozen=True, slots=True)
class Timeline:
    """Keys of one kind. kept_ms: a bucket is over so long after its end: it is closed when it is
    drained then. A producer must know when: it names what is over again, behind its row."""

    table: str
    kind: str
    kept_ms: int

    def row(self, level: int, time_ms: int, task_id: str, task_type: str) -> Row:
        part = shard_of(task_id, LEVELS[level].parts)
        slot = self._slot(level, self.bucket_of(level, time_ms), part)
        return Row(self.table, slot, at(time_ms, task_id), task_type)

    def bucket_of(self, level: int, time_ms: int) -> int:
        """Start of the bucket that holds this time, in milliseconds since the epoch."""
        return start_of(time_ms, LEVELS[level].span_ms) if level else 0

    def slots(self, level: int, bucket: int) -> Sequence[str]:
        """The partitions of a bucket."""
        return [self._slot(level, bucket, part) for part in range(LEVELS[level].parts)]

    def _slot(self, level: int, bucket: int, part: int) -> str:
        if level == 0:
            return self.kind
        suffix = f"/{part:02d}" if LEVELS[level].parts > 1 else ""
        return f"{self.kind}/{level}{time_key(bucket)}{suffix}"

    def names(self, level: int, bucket: int) -> Sequence[Row]:
        """The rows that name a bucket, in the partition above it: at its start, at its end."""
        (above,) = self.slots(level - 1, self.bucket_of(level - 1, bucket))
        last = bucket + LEVELS[level].span_ms - 1
        ends = (time_key(bucket) + START, time_key(last) + END)
        return [Row(self.table, above, end) for end in ends]

    def path(self, level: int, time_ms: int) -> "list[TimeBucket]":
        """What must be named, from above, before a row of this time and level can be found."""
        levels = range(1, level + 1)
        return [TimeBucket(self, one, self.bucket_of(one, time_ms)) for one in levels]


class TimeBucket(NamedTuple):
    """One bucket of a kind, with all its parts."""

    kind: Timeline
    level: int
    start_ms: int

    @property
    def slots(self) -> Sequence[str]:
        return self.kind.slots(self.level, self.start_ms)

    @property
    def names(self) -> Sequence[Row]:
        """Rows in the partition above: at its start, at its end."""
        return self.kind.names(self.level, self.start_ms)

    @property
    def end_ms(self) -> int:
        return self.start_ms + LEVELS[self.level].span_ms

    def is_over(self, now_ms: int) -> bool:
        """Whether others may close it."""
        return self.end_ms + self.kind.kept_ms <= now_ms

    def may_close(self, now_ms: int) -> bool:
        return self.is_over(now_ms - CLOSE_AFTER_MS)


def named(at: str, level: int) -> int:
    """Start of the bucket of this level that a row names, in milliseconds since the epoch."""
    if at[15] == START:
        return time_of(at)
    return time_of(at) + 1 - LEVELS[level].span_ms
