"""The sweep: the tasks are the authority, so what leads to them can be made again from them.

It puts again, under the same keys, the rows of an unfinished task that are missing, and deletes
rows that lead to a finished or deleted one.
"""

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence

from chalicelib.clock import Clock
from chalicelib.errors import UnreadableTask
from chalicelib.store.alternator import requests, time_index
from chalicelib.store.alternator.hints import Hints
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.requests import Item, JsonObject
from chalicelib.store.alternator.time_index import Indexes, Row
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import Position
from chalicelib.task import FINISHED, UNFINISHED, Task, TaskState

OVERDUE_MS = 60_000
"""The fast sweep looks at unfinished tasks this much past their time."""
ROWS_MAX = 500
"""Rows of one shard that one fast sweep looks at; the next one goes on behind them."""
ORPHAN_S = 60.0
"""A row without a task is deleted when it was seen twice, this long apart."""
ORPHANS_MAX = 10_000
BATCH = 50
"""Tasks looked at together: their rows in the timeline, two each, are one request."""
NAMED_MAX = 10_000
"""Directory rows that one sweep remembers to have seen; many tasks lie in a bucket."""


class Sweeper:
    """Remembers where the fast sweep stopped in each shard, and rows whose task it missed."""

    def __init__(
        self,
        requester: Requester,
        hints: Hints,
        rows: IndexRows,
        indexes: Indexes,
        tasks_table: str,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._hints = hints
        self._rows = rows
        self._indexes = indexes
        self._tasks_table = tasks_table
        self._clock = clock
        self._resume: dict[int, str] = {}
        self._orphans: OrderedDict[Position, float] = OrderedDict()

    async def overdue(self, now_ms: int) -> int:
        return sum([await self._overdue_shard(s, now_ms) for s in await self._hints.shards()])

    async def put_again(self, failed_ids: Collection[str]) -> None:
        """Called after the rows of `open` of failed tasks were deleted: some may be run again."""
        tasks = await tasks_by_id(self._requester, self._tasks_table, failed_ids)
        again = [task for task in tasks.values() if task and task.state in UNFINISHED]
        await self._rows.put_open_again(again)

    async def segment(self, segment: int, segments: int, now_ms: int) -> int:
        changed, named = 0, set[Row]()
        scan = requests.scan(self._tasks_table, segment, segments, None)
        batch: list[Task] = []
        async for item in self._requester.items(scan):
            try:
                batch.append(requests.decode_task(item))
            except UnreadableTask:
                continue
            if len(batch) == BATCH:
                changed += await self._repair(batch, now_ms, named)
                batch = []
        return changed + await self._repair(batch, now_ms, named)

    async def _overdue_shard(self, shard: int, now_ms: int) -> int:
        changed, seen = 0, 0
        rows = self._overdue_rows(shard, now_ms - OVERDUE_MS)
        batch: list[Position] = []
        async for position in rows:
            batch.append(position)
            seen += 1
            if seen == ROWS_MAX:
                self._resume[shard] = time_index.at(*position)
                break
            if len(batch) == BATCH:
                changed += await self._examine(batch, now_ms)
                batch = []
        else:
            self._resume.pop(shard, None)
        return changed + await self._examine(batch, now_ms)

    async def _overdue_rows(self, shard: int, until_ms: int) -> AsyncIterator[Position]:
        """Rows of tasks due before `until`, going on where the last sweep stopped."""
        index = self._indexes.open
        low = self._resume.get(shard, time_index.time_key(time_index.YEAR_ONE_MS))
        first = time_index.time_key(index.bucket_of(time_index.time_of(low)))
        high = time_index.time_key(until_ms)
        directory = self._query(index.directory(shard), between=(first, high))
        async for named in directory:
            bucket = time_index.time_of(named["at"]["S"])
            slot = index.slot(shard, bucket)
            empty = True
            async for row in self._query(slot, between=(low, high), limit=ROWS_MAX):
                empty = False
                yield time_index.position_of(row)
            if empty and low <= time_index.time_key(bucket):
                await self._close(shard, bucket)

    async def _close(self, shard: int, bucket: int) -> None:
        """Take a drained bucket out of the directory; put it back if a row came meanwhile.

        A producer that writes into a bucket which is over names it again after its row.
        """
        index = self._indexes.open
        if not index.may_close(bucket, self._clock.now_ms()):
            return
        row = index.bucket_row(shard, bucket)
        await self._write([row], delete=True)
        slot = index.slot(shard, bucket)
        async for _ in self._query(slot, limit=1):
            await self._write([row])
            return

    async def _examine(self, positions: Sequence[Position], now_ms: int) -> int:
        """Rows of `open`: repair what their tasks need, delete those that lead nowhere."""
        if not positions:
            return 0
        tasks = await tasks_by_id(
            self._requester, self._tasks_table, [position.id for position in positions]
        )
        readable = [task for task in tasks.values() if task is not None]
        finished = [task for task in readable if task.state in FINISHED]
        obsolete = [self._indexes.open.row(t.send_ts_ms, t.id) for t in finished]
        for position in positions:
            task = tasks.get(position.id)
            is_elsewhere = task is not None and task.send_ts_ms != position.send_ts_ms
            if is_elsewhere or (position.id not in tasks and self._is_orphan(position)):
                obsolete.append(self._indexes.open.row(*position))
                obsolete.append(self._indexes.all.row(*position))
        await self._write(obsolete, delete=True)
        await self.put_again({task.id for task in finished if task.state is TaskState.FAILED})
        return len(obsolete) + await self._repair(readable, now_ms, set())

    def _is_orphan(self, position: Position) -> bool:
        """Seen without a task before: no create can still be under way."""
        now_s = self._clock.monotonic_s()
        first_s = self._orphans.setdefault(position, now_s)
        while len(self._orphans) > ORPHANS_MAX:
            self._orphans.popitem(last=False)
        return now_s - first_s >= ORPHAN_S

    async def _repair(self, tasks: Sequence[Task], now_ms: int, named: set[Row]) -> int:
        """Put what is missing of unfinished tasks, delete what is left of deleted ones.

        named: directory rows that are there: not looked at again, and added to here.
        """
        wanted, deleted = list[Row](), list[Row]()
        for task in tasks:
            under_lease = task.state is TaskState.RUNNING and not task.is_claimable(now_ms)
            if task.state in UNFINISHED and not under_lease:
                wanted.extend(row for row in self._rows_of(task) if row not in named)
            if task.state is TaskState.DELETED:
                deleted.append(self._indexes.open.row(task.send_ts_ms, task.id))
                deleted.append(self._indexes.all.row(task.send_ts_ms, task.id))
        there = await self._there(wanted + deleted)
        missing = [row for row in dict.fromkeys(wanted) if row[:3] not in there]
        surplus = [row for row in deleted if row[:3] in there]
        await self._write([row for row in missing if row.is_directory])
        await self._write([row for row in missing if not row.is_directory])
        await self._write(surplus, delete=True)
        if len(named) < NAMED_MAX:
            named.update(row for row in wanted if row.is_directory)
        return len(missing) + len(surplus)

    def _rows_of(self, task: Task) -> list[Row]:
        places = self._indexes.times(task)
        directory = [row for index, ms in places for row in index.directory_rows(ms, task.id)]
        return directory + self._indexes.rows(task)

    async def _there(self, rows: Sequence[Row]) -> set[tuple[str, str, str]]:
        """Which of these rows exist, by table, slot and at."""
        found: set[tuple[str, str, str]] = set()
        by_table = itertools.groupby(sorted(dict.fromkeys(rows)), key=lambda row: row.table)
        for table, group in by_table:
            keys: Sequence[JsonObject] = [row.key for row in group]
            items = await self._requester.get_items(table, keys)
            found |= {(table, item["slot"]["S"], item["at"]["S"]) for item in items}
        return found

    def _query(
        self, slot: str, *, between: tuple[str, str] | None = None, limit: int | None = None
    ) -> AsyncIterator[Item]:
        table = self._indexes.open.table
        query = requests.query(table, "slot", slot, between=between, limit=limit)
        return self._requester.items(query)

    async def _write(self, rows: Sequence[Row], *, delete: bool = False) -> None:
        await self._requester.write(time_index.batches(rows, delete=delete))
