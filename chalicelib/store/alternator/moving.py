"""The rows that version 0.1 put: moved to where this version puts them, some each minute.

It can be deleted, with `earlier.py`, when no store of that version is left.
"""

from collections.abc import Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import earlier, requests
from chalicelib.store.alternator.earlier import ALL, HOUR_MS, OPEN, Earlier
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.rows import Row, at_of, batches, position_of, time_of
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import FINISHED, Task, TaskState

MOVED_MAX = 5_000
"""Rows that one call moves."""
BATCH = 50
ALIVE_MS = 3_600_000
"""API processes of that version may be at work for so long, and trust in names that they put."""


class Mover:
    """Remembers since when it has seen hours without rows."""

    def __init__(
        self,
        requester: Requester,
        put: IndexRows,
        indexes: Indexes,
        tasks_table: str,
        clock: Clock,
    ) -> None:
        self._requester = requester
        self._put = put
        self._table = indexes.table
        self._tasks_table = tasks_table
        self._clock = clock
        self._earlier = Earlier(requester, indexes.table, clock)
        self._drained_s: dict[Row, float] = {}

    async def move(self, now_ms: int) -> int:
        """Returns how many rows were moved. Raises StoreUnavailable."""
        moved = 0
        for kind in (ALL, OPEN):
            for shard in await self._earlier.shards(kind):
                name = Row(self._table, earlier.root(kind), f"{shard:05d}")
                moved += await self._shard(kind, shard, name, MOVED_MAX - moved, now_ms)
                if moved >= MOVED_MAX:
                    return moved
        return moved

    async def _shard(self, kind: str, shard: int, name: Row, most: int, now_ms: int) -> int:
        moved, directory = 0, earlier.directory(kind, shard)
        hours = [time_of(at_of(item)) for item in await self._read(directory)]
        for hour in hours:
            slot = earlier.slot(kind, shard, hour)
            items = await self._read(slot, most - moved)
            for start in range(0, len(items), BATCH):
                found = [
                    Row(self._table, slot, at_of(item)) for item in items[start : start + BATCH]
                ]
                moved += await self._rows(kind, found, hour, now_ms)
            if not items:
                await self._close(Row(self._table, directory, earlier.name(hour)), slot, hour)
            if moved >= most:
                return moved
        if not hours:
            await self._close(name, directory, None)
        return moved

    async def _rows(self, kind: str, found: Sequence[Row], hour: int, now_ms: int) -> int:
        """Those of one hour. What cannot be judged stays."""
        positions = {row: position_of(row.at) for row in found}
        ids = [position.id for position in positions.values()]
        tasks = await tasks_by_id(self._requester, self._tasks_table, ids)
        put, deleted = list[Task](), list[Row]()
        for row, position in positions.items():
            task = tasks.get(position.id)
            if position.id not in tasks and hour + HOUR_MS + ALIVE_MS < now_ms:
                deleted.append(row)
            if task is None:
                continue
            deleted.append(row)
            is_listed = kind == ALL or task.state not in FINISHED
            is_there = task.send_ts_ms == position.send_ts_ms and task.place is None
            if is_there and is_listed and task.state is not TaskState.DELETED:
                put.append(task)
        await self._put.put_again(put, self._requester.deadline_s())
        await self._requester.write(batches(deleted, delete=True))
        return len(deleted)

    async def _close(self, name: Row, slot: str, hour: int | None) -> None:
        """Take out the name of an empty partition; put it back if a row came meanwhile."""
        now_s = self._clock.monotonic_s()
        since_s = self._drained_s.setdefault(name, now_s)
        is_over = hour is None or hour + HOUR_MS + ALIVE_MS < self._clock.now_ms()
        if not is_over and now_s < since_s + ALIVE_MS / 1000:
            return
        self._drained_s.pop(name)
        await self._requester.write(batches([name], delete=True))
        if await self._read(slot, 1):
            await self._requester.write(batches([name]))

    async def _read(self, slot: str, most: int | None = None) -> Sequence[requests.Item]:
        query = requests.query(self._table, "slot", slot, limit=most)
        found: list[requests.Item] = []
        async for item in self._requester.items(query):
            found.append(item)
            if len(found) == most:
                break
        return found
