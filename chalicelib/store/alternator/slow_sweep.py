"""The slow sweep: everything there is, at a stated pace, again and again.

    tasks    a scan of all records: puts again what is missing, deletes what is left of tombstones,
             and these themselves after their day; also what retention has missed
    all      a walk along `all` from its oldest end: retention
    failed   a walk along `failed`: rows of failures that were never committed

A task that was completed keeps its row in `all` unless something takes it away. That does nothing
but the walk along `all`, which ends where retention does; so before that time the scan looks at
completed tasks, too, and elsewhere lets the store pass over them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from chalicelib.clock import Clock
from chalicelib.errors import UnreadableTask
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.closing import Closing
from chalicelib.store.alternator.lookup import rows_there
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.progress import Progress
from chalicelib.store.alternator.pruning import Pruning
from chalicelib.store.alternator.repair import Repair
from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.retention import Retention
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.timeline import TimeBucket
from chalicelib.store.alternator.walk import Span, Walk
from chalicelib.store.alternator.wire.requester import Page, Requester
from chalicelib.task import Task, TaskState

REST_S = 600.0
"""Between two rounds of a pass in one process."""
BATCH = 50
"""Rows whose tasks are looked at together."""
ENTRY_COST = 2
"""A row of the timeline costs a read of its task, too."""
DELETION_COST = 5
"""A conditional delete, and those of its rows, cost the store about as much as so many reads."""
PAGES = 1 + DELETION_COST
"""A scan reads what it may in so many pages, as all that one shows may have to go."""


class Step(NamedTuple):
    """changed: rows and records that were put or deleted. cost: rows that were read, and as many as
    the rest cost."""

    changed: int = 0
    cost: int = 0


class Pass(Protocol):
    """share: it may take one part in so many of what a step of the sweep may cost."""

    share: ClassVar[int]

    async def step(self, most: int, now_ms: int) -> Step:
        """Go on where the fleet has come to, for about so many rows. Raises StoreUnavailable."""


class Rest:
    """Between two rounds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s = -math.inf

    def begin(self) -> None:
        self._until_s = self._clock.monotonic_s() + REST_S

    @property
    def is_on(self) -> bool:
        return self._clock.monotonic_s() < self._until_s


class TaskPass:
    """The scan. table: of the tasks."""

    name: ClassVar = "tasks"
    share: ClassVar = 1

    def __init__(
        self,
        requester: Requester,
        indexes: Indexes,
        repair: Repair,
        retention: Retention,
        table: str,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._indexes = indexes
        self._repair = repair
        self._retention = retention
        self._table = table
        self._progress = progress
        self._rest = Rest(clock)

    async def step(self, most: int, now_ms: int) -> Step:
        changed, cost, named = 0, 0, set[Row]()
        while cost < most and not self._rest.is_on:
            size = min(most - cost, max(BATCH, most // PAGES))
            page = await self._page(size, now_ms)
            gone, repaired = await self._look_at(_decoded(page.items), now_ms, named)
            changed += gone + repaired
            cost += size + DELETION_COST * gone  # A short one has passed tombstones or much text.
            if page.following is None:
                await self._progress.end(self.name, page.scanned, now_ms)
                self._rest.begin()
            else:
                start = page.following.body["ExclusiveStartKey"]
                position = msgspec.json.encode(start).decode()
                await self._progress.advance(self.name, position, page.scanned)
        return Step(changed, cost)

    async def _page(self, most: int, now_ms: int) -> Page:
        one = await self._progress.round(self.name, now_ms)
        start: Item | None = msgspec.json.decode(one.position) if one.position else None
        before_ms = self._retention.before_ms(now_ms)
        return await self._requester.page(requests.sweep(self._table, start, most, before_ms))

    async def _look_at(
        self, tasks: Sequence[Task], now_ms: int, named: set[Row]
    ) -> tuple[int, int]:
        """Returns how many records are gone, and how many rows were put or deleted."""
        retired = await self._retention.retire(tasks, now_ms)
        purged = await self._retention.purge(await self._without_rows(tasks), now_ms)
        gone = {task.id for task in (*retired, *purged)}
        left = [task for task in tasks if task.id not in gone]
        before_ms = self._retention.before_ms(now_ms)
        repaired = await self._repair.repair(left, now_ms, named, before_ms)
        return len(gone), repaired

    async def _without_rows(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Tombstones to which no row leads."""
        rows_of = {t.id: self._indexes.obsolete(t) for t in tasks if t.state is TaskState.DELETED}
        there = await rows_there(
            self._requester, [row for found in rows_of.values() for row in found]
        )
        led_to = {id for id, found in rows_of.items() if any(row[:3] in there for row in found)}
        return [task for task in tasks if task.id in rows_of and task.id not in led_to]


class WalkPass:
    """A walk along one kind. Rows that lead to no task which needs them are deleted, and drained
    buckets leave it. entry_cost: what a row can cost at most."""

    name: ClassVar[str]
    entry_cost: ClassVar[int]

    def __init__(
        self,
        requester: Requester,
        parallel: Parallel,
        indexes: Indexes,
        pruning: Pruning,
        closing: Closing,
        retention: Retention,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._parallel = parallel
        self._kind = next(one for one in indexes.timelines if one.kind == self.name)
        self._pruning = pruning
        self._closing = closing
        self._retention = retention
        self._progress = progress
        self._rest = Rest(clock)
        self._under_way: UnderWay | None = None

    async def step(self, most: int, now_ms: int) -> Step:
        high_ms = self._high_ms(now_ms)
        if self._rest.is_on or high_ms is None:
            return Step()
        under_way, self._under_way = self._under_way, None  # Begun anew after a failure.
        one = await self._progress.round(self.name, now_ms)
        if under_way is None or under_way.position != one.position:
            under_way = await self._begin(one.position, high_ms)
        step, is_over = await self._go_on(under_way, most, now_ms)
        if not is_over:
            self._under_way = under_way
            return step
        await self._closing.close(under_way.drained())
        await self._progress.end(self.name, 0, now_ms)
        self._rest.begin()
        return step

    def _high_ms(self, now_ms: int) -> int | None:
        """Where the walk ends; None: there is nothing to walk for."""
        raise NotImplementedError

    async def _look_at(self, tasks: Sequence[Task], now_ms: int) -> int:
        """Returns how many records were deleted."""
        return 0

    async def _begin(self, position: str | None, high_ms: int) -> "UnderWay":
        low = position or rows.FIRST
        span = Span(low=low, high=rows.time_key(high_ms), wanted=BATCH)
        walk = Walk(self._requester, self._parallel, [self._kind], span)
        await walk.begin()
        return UnderWay(walk, span, position)

    async def _go_on(self, under_way: "UnderWay", most: int, now_ms: int) -> tuple[Step, bool]:
        """Returns, too, whether the walk is over."""
        changed = cost = 0
        while cost < most:
            batch = min(BATCH, max(1, (most - cost) // self.entry_cost))
            entries = await under_way.walk.take(batch)
            if not entries:
                return Step(changed, cost), True
            pruned, tasks = await self._pruning.prune(entries, now_ms)
            gone = await self._look_at(tasks, now_ms)
            changed += pruned + gone
            cost += ENTRY_COST * len(entries) + DELETION_COST * gone
            under_way.position = entries[-1].at
            await self._progress.advance(self.name, entries[-1].at, len(entries))
        return Step(changed, cost), False


@dataclass
class UnderWay:
    """A walk that has come to a position."""

    walk: Walk
    span: Span
    position: str | None

    def drained(self) -> Sequence[TimeBucket]:
        """Of what was walked as a whole."""
        span = self.span
        return [
            bucket
            for bucket in self.walk.drained()
            if span.low <= rows.time_key(bucket.start_ms)
            and rows.time_key(bucket.end_ms) <= span.high
        ]


class RetentionPass(WalkPass):
    """Finished tasks are deleted some days after they finished: not before their `send_ts`."""

    name: ClassVar = "all"
    share: ClassVar = 2
    entry_cost: ClassVar = ENTRY_COST + DELETION_COST

    def _high_ms(self, now_ms: int) -> int | None:
        return self._retention.before_ms(now_ms)

    async def _look_at(self, tasks: Sequence[Task], now_ms: int) -> int:
        return len(await self._retention.retire(tasks, now_ms))


class FailedPass(WalkPass):
    """Whoever fails a task puts its row in `failed` before: if it dies between, nothing else tells
    of that row."""

    name: ClassVar = "failed"
    share: ClassVar = 10
    entry_cost: ClassVar = ENTRY_COST

    def _high_ms(self, now_ms: int) -> int | None:
        return rows.time_of(rows.LAST)


def _decoded(items: Sequence[Item]) -> list[Task]:
    """Records of a newer version are left alone."""
    tasks = []
    for item in items:
        try:
            tasks.append(requests.decode_task(item))
        except UnreadableTask:
            continue
    return tasks
