"""Where the rows of each task are. Its record tells, so that they can be deleted and put again."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, Self

from chalicelib.store.alternator import earlier, timeline
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.schedule import HintBucket, Schedule
from chalicelib.store.alternator.timeline import TimeBucket, Timeline
from chalicelib.task import UNFINISHED, Task, TaskState, shard_of

KEPT_MS = 86_400_000
"""The least that retention leaves; so most rows are put where nothing can be closed."""


class Place(NamedTuple):
    """shard: of its hint. level: of its rows in `all` and `open`. failed_level: of its row in
    `failed`, once it has failed."""

    shard: int
    level: int
    failed_level: int | None = None

    @classmethod
    @functools.lru_cache(maxsize=10_000)
    def of(cls, text: str) -> Self:
        """Few differ, and each is asked for several times a create."""
        return cls(*map(int, text.split("/")))

    @property
    def text(self) -> str:
        """What stands in the record."""
        return "/".join(str(part) for part in self if part is not None)


class Bucket(Protocol):
    """Part of an index that must be named before a row in it can be found. Hashable."""

    @property
    def names(self) -> Sequence[Row]:
        """The rows that name it."""

    def is_over(self, now_ms: int) -> bool:
        """Whether it has ended, and may be closed by others."""


class Indexes:
    """All indexes over the tasks, and the rows of a task in them."""

    def __init__(self, prefix: str, shards: int) -> None:
        self.table = f"{prefix}timeline"
        self.schedule = Schedule(f"{prefix}schedule", shards)
        self.all = Timeline(self.table, "all", KEPT_MS)
        self.open = Timeline(self.table, "open", 0)
        self.failed = Timeline(self.table, "failed", KEPT_MS)
        self.timelines = (self.failed, self.open, self.all)
        self.shards = shards

    def place_of(self, task: Task) -> Place:
        """A task of version 0.1 tells none: its rows are put a day a partition."""
        if task.place is not None:
            return Place.of(task.place)
        return Place(shard_of(task.id, self.shards), timeline.DAY, timeline.DAY)

    def placed(self, task: Task, level: int) -> Task:
        """A task to create, with its place. level: of its rows in `all` and `open`."""
        return replace(task, place=Place(shard_of(task.id, self.shards), level).text)

    def placed_failed(self, task: Task, level: int) -> Task:
        """The same, with the place of its row in `failed`, unless it has one."""
        place = self.place_of(task)
        if task.place is None or place.failed_level is not None:
            return task
        return replace(task, place=place._replace(failed_level=level).text)

    def hint_row(self, task: Task) -> Row:
        assert task.due_at_ms is not None
        shard = self.place_of(task).shard
        return self.schedule.hint_row(shard, task.due_at_ms, task.id, task.type)

    def all_row(self, task: Task) -> Row:
        return _row(self.all, task, self.place_of(task).level)

    def open_row(self, task: Task) -> Row:
        return _row(self.open, task, self.place_of(task).level)

    def failed_row(self, task: Task) -> Row | None:
        """None if it never failed. Where a processor of version 0.1 failed it, nothing tells the
        level: then the sweep puts it at level 0."""
        level = self.place_of(task).failed_level
        if level is None and task.state is TaskState.FAILED:
            level = 0
        return None if level is None else _row(self.failed, task, level)

    def rows(self, task: Task) -> list[Row]:
        """The rows that the task needs as it is. Once it has failed, it keeps its row in `failed`
        until it is completed or deleted."""
        if task.state is TaskState.DELETED:
            return []
        rows = [self.all_row(task)]
        if task.state in UNFINISHED:
            rows += [self.open_row(task), self.hint_row(task)]
        is_certain = task.place is not None or task.state is TaskState.FAILED
        if task.state is not TaskState.COMPLETED and is_certain and (row := self.failed_row(task)):
            rows.append(row)
        return rows

    def obsolete(self, task: Task) -> list[Row]:
        """Rows that the task can have in the timeline, and needs no more."""
        needed = self.rows(task)
        rows = [self.all_row(task), self.open_row(task), *filter(None, [self.failed_row(task)])]
        if task.place is None and task.state not in UNFINISHED:
            is_deleted = task.state is TaskState.DELETED
            kinds = (earlier.OPEN, earlier.ALL) if is_deleted else (earlier.OPEN,)
            rows += earlier.rows(self.table, task, self.shards, kinds)
        return [row for row in rows if row not in needed]

    def rows_to_delete(self, task: Task) -> list[Row]:
        """The rows of a task that was as this one when it was deleted."""
        rows = self.rows(task)
        return (
            rows if task.place is not None else rows + earlier.rows(self.table, task, self.shards)
        )

    def buckets(self, task: Task) -> list[Bucket]:
        """Where the rows are that the task needs."""
        if task.state is TaskState.DELETED:
            return []
        buckets: list[Bucket] = [*self._path(self.all, task), *self.failed_buckets(task)]
        if task.state in UNFINISHED:
            buckets += [self.hint_bucket(task), *self._path(self.open, task)]
        return buckets

    def names(self, task: Task) -> list[Row]:
        """The names without which the rows that the task needs cannot be found."""
        return [row for bucket in self.buckets(task) for row in bucket.names]

    def hint_bucket(self, task: Task) -> HintBucket:
        assert task.due_at_ms is not None
        shard, start_ms = self.place_of(task).shard, self.schedule.bucket_of(task.due_at_ms)
        return HintBucket(self.schedule, shard, start_ms, max(self.shards, shard + 1))

    def open_buckets(self, task: Task) -> Sequence[Bucket]:
        return self._path(self.open, task)

    def failed_buckets(self, task: Task) -> Sequence[TimeBucket]:
        """Of the row in `failed`, if the task needs one."""
        level = self.place_of(task).failed_level
        if level is None or self.failed_row(task) not in self.rows(task):
            return []
        return self.failed.path(level, task.send_ts_ms)

    def _path(self, index: Timeline, task: Task) -> Sequence[TimeBucket]:
        return index.path(self.place_of(task).level, task.send_ts_ms)


def _row(index: Timeline, task: Task, level: int) -> Row:
    return index.row(level, task.send_ts_ms, task.id, task.type)
