"""Rows that lead to tasks, in the schedule and the timeline: put, deleted and put again."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from random import Random

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.density import Density
from chalicelib.store.alternator.places import Bucket, Indexes
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import Task

NAMED_MAX = 20_000


class IndexRows:
    """Remembers which buckets it has named.

    All methods raise StoreUnavailable. deadline_s: of the monotonic clock, None for the default.
    """

    def __init__(
        self, requester: Requester, indexes: Indexes, clock: Clock, rng: Random | None = None
    ) -> None:
        rng = rng or Random()
        self._requester = requester
        self._indexes = indexes
        self._clock = clock
        self._named = Named()
        self._all = Density(requester, indexes.all, clock, rng)
        self._failed = Density(requester, indexes.failed, clock, rng)

    async def put(self, tasks: Sequence[Task], deadline_s: float) -> Sequence[Task]:
        """Of tasks to create; returns them with their places. A crash leaves surplus rows only."""
        await self._all.look([task.send_ts_ms for task in tasks], deadline_s)
        placed = [self._indexes.placed(t, self._all.level(t.send_ts_ms)) for t in tasks]
        opened = [name for task in placed for name in self._drawn(task)]
        buckets = self._buckets(placed)
        if len(placed) > 1:
            hints = {self._indexes.hint_bucket(task) for task in placed}
            buckets += [bucket for hint in hints for bucket in hint.of_all_shards()]
        await self._put_named(buckets, [*self._needed(placed), *opened], deadline_s)
        return placed

    async def put_again(self, tasks: Sequence[Task], deadline_s: float) -> None:
        """What the tasks need as they are."""
        await self._put_named(self._buckets(tasks), self._needed(tasks), deadline_s)

    async def put_hint(self, task: Task, deadline_s: float) -> None:
        """Of a task that is scheduled again by its settlement."""
        bucket, row = self._indexes.hint_bucket(task), self._indexes.hint_row(task)
        await self._put_named([bucket], [row], deadline_s, Rank.SETTLE)

    async def put_failed(self, task: Task, deadline_s: float) -> Task:
        """Of a task that its settlement will fail. Returns it with the place of that row."""
        time_ms = task.send_ts_ms
        await self._failed.look([time_ms], deadline_s, Rank.SETTLE)
        level = self._failed.level(time_ms)
        task = self._indexes.placed_failed(task, level)
        row = self._indexes.failed_row(task)
        assert row is not None
        put = [row, *self._failed.drawn(level, time_ms)]
        await self._put_named(self._indexes.failed_buckets(task), put, deadline_s, Rank.SETTLE)
        return task

    async def put_open_again(self, tasks: Sequence[Task]) -> None:
        """The rows of unfinished tasks in `open`, then their buckets, which may be closed."""
        deadline_s = self._requester.deadline_s()
        buckets = [bucket for task in tasks for bucket in self._indexes.open_buckets(task)]
        await self._write([self._indexes.open_row(task) for task in tasks], deadline_s)
        await self._write(_names(buckets), deadline_s)

    async def delete(self, task: Task) -> None:
        """All rows of the task as it was when it was deleted."""
        obsolete = self._indexes.rows_to_delete(task)
        deadline_s = self._requester.deadline_s()
        await self._requester.write(rows.batches(obsolete, delete=True), deadline_s=deadline_s)

    async def has_hint(self, task: Task) -> bool:
        """Whether the hint of this task stands; False for a task that needs none."""
        if task.due_at_ms is None:
            return False
        row = self._indexes.hint_row(task)
        return "Item" in await self._requester.decide(requests.get_row(row.table, row.key))

    def _drawn(self, task: Task) -> Iterable[Row]:
        level = self._indexes.place_of(task).level
        return self._all.drawn(level, task.send_ts_ms)

    def _buckets(self, tasks: Iterable[Task]) -> list[Bucket]:
        return [bucket for task in tasks for bucket in self._indexes.buckets(task)]

    def _needed(self, tasks: Iterable[Task]) -> list[Row]:
        return [row for task in tasks for row in self._indexes.rows(task)]

    async def _put_named(
        self,
        buckets: Iterable[Bucket],
        put: Sequence[Row],
        deadline_s: float,
        rank: Rank | None = None,
    ) -> None:
        """A bucket that is over may have been closed while its first row was put: it is named once
        more behind that."""
        now_ms = self._clock.now_ms()
        over, new = list[Bucket](), list[Bucket]()
        for bucket in dict.fromkeys(buckets):
            if bucket.is_over(now_ms):
                over.append(bucket)
            elif bucket not in self._named:
                new.append(bucket)
        await self._write(_names([*over, *new]), deadline_s, rank)
        await self._write(put, deadline_s, rank)
        await self._write(_names(over), deadline_s, rank)
        self._named.add(new)

    async def _write(self, put: Sequence[Row], deadline_s: float, rank: Rank | None = None) -> None:
        await self._requester.write(rows.batches(put), deadline_s=deadline_s, rank=rank)


class Named:
    """Buckets that this process has named and nobody may close yet. Bounded."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[Bucket, None] = OrderedDict()

    def __contains__(self, bucket: Bucket) -> bool:
        return bucket in self._buckets

    def add(self, buckets: Iterable[Bucket]) -> None:
        self._buckets |= dict.fromkeys(buckets)
        while len(self._buckets) > NAMED_MAX:
            self._buckets.popitem(last=False)


def _names(buckets: Iterable[Bucket]) -> Sequence[Row]:
    return [row for bucket in buckets for row in bucket.names]
