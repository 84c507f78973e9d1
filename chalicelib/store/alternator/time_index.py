"""A time index: which tasks to look at, and when, in a table of plain puts and deletes.

    partition <kind><shard>/<bucket>   rows <time>#<id>, one a task
    partition <kind><shard>            the shard's directory: one row <bucket> a bucket
    partition <kind>shards             one row <shard> a shard

A bucket is read if its directory names it, so the directory row is put before the bucket's first
row. `schedule` is one such index, `timeline` holds two (kinds `open` and `all`).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item, JsonObject
from chalicelib.store.contract import Hint, Position
from chalicelib.task import Task, shard_of

YEAR_ONE_MS = -62_135_596_800_000
"""Keys count from here, so that every time from year 1 to 9999 is 15 digits and sorts as text."""
SCHEDULE_BUCKET_MS = 300_000
TIMELINE_BUCKET_MS = 3_600_000
CLOSE_AFTER_MS = 300_000
"""A drained bucket may be closed this long after its end."""
ANNOUNCED_MAX = 20_000


class Row(NamedTuple):
    """One row of a time index: where it is, and what it holds beside its key."""

    table: str
    slot: str
    at: str
    task_type: str | None = None

    @property
    def is_directory(self) -> bool:
        return "#" not in self.at

    @property
    def key(self) -> JsonObject:
        return {"slot": {"S": self.slot}, "at": {"S": self.at}}

    @property
    def item(self) -> JsonObject:
        return self.key | ({"type": {"S": self.task_type}} if self.task_type else {})


@dataclass(frozen=True, slots=True)
class TimeIndex:
    """Keys of one index. bucket_ms: the span of time that one partition holds."""

    table: str
    kind: str
    bucket_ms: int
    shards: int

    def bucket_of(self, time_ms: int) -> int:
        """Start of the bucket that holds this time, in milliseconds since the epoch."""
        return time_ms - (time_ms - YEAR_ONE_MS) % self.bucket_ms

    def row(self, time_ms: int, task_id: str, task_type: str | None = None) -> Row:
        slot = self.slot(shard_of(task_id, self.shards), self.bucket_of(time_ms))
        return Row(self.table, slot, at(time_ms, task_id), task_type)

    def slot(self, shard: int, bucket: int) -> str:
        return f"{self.kind}{shard}/{time_key(bucket)}"

    def directory(self, shard: int) -> str:
        return f"{self.kind}{shard}"

    @property
    def root(self) -> str:
        return f"{self.kind}shards"

    def bucket_row(self, shard: int, bucket: int) -> Row:
        return Row(self.table, self.directory(shard), time_key(bucket))

    def directory_rows(self, time_ms: int, task_id: str) -> list[Row]:
        """What must stand before the task's row can be found."""
        shard = shard_of(task_id, self.shards)
        shard_row = Row(self.table, self.root, f"{shard:05d}")
        return [shard_row, self.bucket_row(shard, self.bucket_of(time_ms))]

    def is_over(self, time_ms: int, now_ms: int) -> bool:
        """Whether the bucket of this time has ended, and may be closed by others."""
        return self.bucket_of(time_ms) + self.bucket_ms <= now_ms

    def may_close(self, bucket: int, now_ms: int) -> bool:
        return bucket + self.bucket_ms + CLOSE_AFTER_MS < now_ms


class Indexes:
    """The three indexes over the tasks, and the rows of a task in them."""

    def __init__(self, prefix: str, shards: int) -> None:
        timeline = f"{prefix}timeline"
        self.schedule = TimeIndex(f"{prefix}schedule", "", SCHEDULE_BUCKET_MS, shards)
        self.open = TimeIndex(timeline, "open", TIMELINE_BUCKET_MS, shards)
        self.all = TimeIndex(timeline, "all", TIMELINE_BUCKET_MS, shards)

    def hint_row(self, due_at_ms: int, task_id: str, task_type: str) -> Row:
        return self.schedule.row(due_at_ms, task_id, task_type)

    def rows(self, task: Task) -> list[Row]:
        """The rows of a task as it is: `all`, and while it is unfinished its hint and `open`."""
        rows = [self.all.row(task.send_ts_ms, task.id)]
        if task.due_at_ms is not None:
            rows.append(self.open.row(task.send_ts_ms, task.id))
            rows.append(self.hint_row(task.due_at_ms, task.id, task.type))
        return rows

    def open_rows(self, task: Task) -> list[Row]:
        """The row of an unfinished task in `open`, and what to put behind it: its bucket may have
        been closed."""
        directory = self.open.directory_rows(task.send_ts_ms, task.id)
        return [self.open.row(task.send_ts_ms, task.id), *directory]

    def times(self, task: Task) -> list[tuple[TimeIndex, int]]:
        """At which time each index lists an unfinished task."""
        assert task.due_at_ms is not None
        send = task.send_ts_ms
        return [(self.schedule, task.due_at_ms), (self.open, send), (self.all, send)]


class Announced:
    """Directory rows that this process has put, of buckets nobody may close yet. Bounded."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Row, None] = OrderedDict()

    def missing(self, places: Iterable[tuple[TimeIndex, int]], id: str, now_ms: int) -> list[Row]:
        """Directory rows to put before the task's rows, each once."""
        wanted = [
            row
            for index, time_ms in places
            if index.is_over(time_ms, now_ms)
            or index.directory_rows(time_ms, id)[-1] not in self._rows
            for row in index.directory_rows(time_ms, id)
        ]
        return list(dict.fromkeys(wanted))

    def remember(self, places: Iterable[tuple[TimeIndex, int]], id: str, now_ms: int) -> None:
        for index, time_ms in places:
            if not index.is_over(time_ms, now_ms):
                self._rows[index.directory_rows(time_ms, id)[-1]] = None
        while len(self._rows) > ANNOUNCED_MAX:
            self._rows.popitem(last=False)


def time_key(time_ms: int) -> str:
    return f"{time_ms - YEAR_ONE_MS:015d}"


def at(time_ms: int, task_id: str) -> str:
    return f"{time_key(time_ms)}#{task_id}"


def time_of(at: str) -> int:
    return int(at.split("#")[0]) + YEAR_ONE_MS


def position_of(row: Item) -> Position:
    key: str = row["at"]["S"]
    return Position(time_of(key), key.split("#")[1])


def hint_of(row: Item) -> Hint:
    return Hint(*position_of(row), row.get("type", {}).get("S", ""))


def batches(rows: Iterable[Row], *, delete: bool = False) -> Iterator[requests.Request]:
    """Requests that put or delete these rows, each once, at most 25 a request."""
    unique = list({row[:3]: row for row in rows}.values())
    for start in range(0, len(unique), 25):
        tables: dict[str, list[Item]] = {}
        for row in unique[start : start + 25]:
            tables.setdefault(row.table, []).append(row.key if delete else row.item)
        yield requests.write_rows({}, tables) if delete else requests.write_rows(tables, {})
