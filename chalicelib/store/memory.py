"""The store in memory, for tests and simulation: `contract.py` in dicts.

It keeps the same rows as the real one (tasks, hints, timeline), so that a crash between two
writes leaves here what it leaves there.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from chalicelib.errors import (
    SchedulerError,
    TaskExists,
    TaskNotFailed,
    TaskNotFound,
    TaskRunning,
)
from chalicelib.statistics import StatisticsPage, StatisticsRow, Step
from chalicelib.store.contract import (
    NO_PRESSURE,
    PAGE_PAYLOAD_CHARS,
    Heartbeat,
    Hint,
    HintPage,
    Position,
    Pressure,
    Refused,
    TaskFilter,
    TaskPage,
)
from chalicelib.task import FINISHED, UNFINISHED, Task, TaskState, shard_of

DAY_MS = 86_400_000
OVERDUE_MS = 60_000
"""The fast sweep looks at unfinished tasks this much past their time."""


@dataclass(kw_only=True, slots=True)
class Tables:
    """What is stored, shared by any number of MemoryStores and MemoryQueues."""

    tasks: dict[str, Task] = field(default_factory=dict)
    hints: dict[tuple[int, str], str] = field(default_factory=dict)
    open: set[Position] = field(default_factory=set)
    failed: set[Position] = field(default_factory=set)
    all: set[Position] = field(default_factory=set)
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    statistics: dict[tuple[object, ...], StatisticsRow] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def rows(self) -> int:
        """How many rows lead to tasks."""
        return len(self.hints) + len(self.open) + len(self.failed) + len(self.all)


class MemoryStore:
    """TaskStore on `Tables`."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def create(self, task: Task) -> Task:
        with self.tables.lock:
            stored = self.tables.tasks.setdefault(task.id, task)
            if stored.token != task.token:
                raise TaskExists(stored)
            if stored is task:
                put_rows(self.tables, task)
            return stored

    def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
        return [self._created(task) for task in tasks]

    def _created(self, task: Task) -> Task | SchedulerError:
        try:
            return self.create(task)
        except SchedulerError as error:
            return error

    def get(self, task_id: str) -> Task:
        task = self.tables.tasks.get(task_id)
        if task is None or task.state is TaskState.DELETED:
            raise TaskNotFound(id=task_id)
        return task

    def list(self, filter: TaskFilter) -> TaskPage:
        with self.tables.lock:
            walked: set[Position] = set()
            positions = sorted(
                walked.union(*(getattr(self.tables, name) for name in filter.indexes)),
                reverse=filter.descending,
            )
            found = [self.tables.tasks[p.id] for p in positions if filter.is_ahead(p)]
        fitting = [task for task in found if filter.accepts(task)]
        page = fitting[: filter.limit]
        while sum(len(task.payload or "") for task in page[:-1]) >= PAGE_PAYLOAD_CHARS:
            page.pop()
        if len(fitting) == len(page):
            return TaskPage(page, None)
        return TaskPage(page, Position(page[-1].send_ts_ms, page[-1].id))

    def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        with self.tables.lock:
            task = self.get(task_id)
            if not task.is_deletable(now_ms):
                raise TaskRunning(task)
            self.tables.tasks[task_id] = task.deleted(now_ms=now_ms, token=token)
            drop_rows(self.tables, task)

    def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        with self.tables.lock:
            task = self.get(task_id)
            if task.token == token:
                return task
            if task.state is not TaskState.FAILED:
                raise TaskNotFailed(task)
            retried = task.retried(now_ms=now_ms, token=token)
            self.tables.tasks[task_id] = retried
            put_rows(self.tables, retried)
            return retried

    def heartbeats(self) -> Sequence[Heartbeat]:
        return list(self.tables.heartbeats.values())

    def statistics(self, step: Step, *, since_ms: int, until_ms: int) -> StatisticsPage:
        rows = list(self.tables.statistics.values())
        return StatisticsPage(
            [row for row in rows if row.step is step and since_ms <= row.start_ms < until_ms]
        )

    def has_hint(self, task: Task) -> bool:
        return task.due_at_ms is not None and (task.due_at_ms, task.id) in self.tables.hints

    def check(self) -> None:
        """There is nothing to mismatch."""

    def check_writes(self) -> None:
        """It always takes them."""

    def pressure(self) -> Pressure:
        return NO_PRESSURE


class MemoryQueue:
    """TaskQueue on `Tables`."""

    def __init__(self, tables: Tables, *, shards: int = 16, retention_days: int = 0) -> None:
        self.tables = tables
        self.retention_ms = retention_days * DAY_MS
        self.shard_count = shards

    async def shards(self) -> Collection[int]:
        return range(self.shard_count)

    async def occupied(
        self, shards: Collection[int], *, since_ms: int, until_ms: int
    ) -> Collection[int]:
        times = self.tables.hints
        found = {shard_of(id, self.shard_count) for at, id in times if since_ms <= at < until_ms}
        return found.intersection(shards)

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        low = (since_ms or 0, "")
        if resume is not None:
            due_at, task_id = resume.split("#")
            low = (int(due_at), task_id + "~")
        found = sorted(
            Hint(due_at_ms, task_id, task_type, shard)
            for (due_at_ms, task_id), task_type in self.tables.hints.items()
            if low <= (due_at_ms, task_id)
            and due_at_ms < until_ms
            and shard_of(task_id, self.shard_count) == shard
        )
        page = found[:limit]
        more = len(found) > len(page)
        return HintPage(page, f"{page[-1].due_at_ms}#{page[-1].id}" if more else None)

    def may_claim(self, claiming: int, held: int) -> bool:
        return True

    async def claim(
        self, hint: Hint, *, claim: str, processor: str, now_ms: int, until_s: float
    ) -> Task | Refused:
        task = self.tables.tasks.get(hint.id)
        if task is not None and task.claim == claim:
            return task
        if task is None or not task.is_claimable(now_ms):
            return Refused(task)
        held = task.claimed(now_ms=now_ms, claim=claim, processor=processor)
        self.tables.tasks[task.id] = held
        return held

    async def take_over(
        self,
        hint: Hint,
        *,
        lost: Collection[str],
        claim: str,
        processor: str,
        now_ms: int,
        until_s: float,
    ) -> Task | Refused:
        task = self.tables.tasks.get(hint.id)
        if task is None or task.state is not TaskState.RUNNING or task.claim not in lost:
            return await MemoryQueue.claim(
                self, hint, claim=claim, processor=processor, now_ms=now_ms, until_s=until_s
            )
        held = task.taken_over(now_ms=now_ms, claim=claim, processor=processor)
        self.tables.tasks[task.id] = held
        return held

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        if settled.due_at_ms is not None:
            self.tables.hints[settled.due_at_ms, settled.id] = settled.type
        if settled.state is TaskState.FAILED:
            self.tables.failed.add(Position(settled.send_ts_ms, settled.id))
        task = self.tables.tasks.get(held.id)
        if task is None or task.claim != held.claim:
            return False
        if task.state is TaskState.RUNNING:
            self.tables.tasks[held.id] = settled
            return True
        return task.state is settled.state

    async def get(self, task_ids: Collection[str]) -> Mapping[str, Task | None]:
        return {id: self.tables.tasks[id] for id in task_ids if id in self.tables.tasks}

    async def forget_hint(self, hint: Hint) -> None:
        self.tables.hints.pop((hint.due_at_ms, hint.id), None)

    async def forget_open(self, task: Task) -> None:
        with self.tables.lock:
            stored = self.tables.tasks.get(task.id)
            is_run_again = stored is not None and stored.state in UNFINISHED
            position = Position(task.send_ts_ms, task.id)
            if task.state is not TaskState.FAILED or not is_run_again:
                self.tables.open.discard(position)
            if task.state is not TaskState.FAILED:
                self.tables.failed.discard(position)

    async def flush(self, *, age_s: float = 0.0) -> None:
        """Deletions are made when asked for."""

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.tables.heartbeats[heartbeat.processor] = heartbeat

    async def heartbeats(self) -> Sequence[Heartbeat]:
        return list(self.tables.heartbeats.values())

    async def put_statistics(self, rows: Sequence[StatisticsRow]) -> None:
        self.tables.statistics |= {row[:4]: row for row in rows}

    async def leave(self, processor: str) -> None:
        self.tables.heartbeats.pop(processor, None)

    async def sweep_overdue(self, *, now_ms: int) -> int:
        overdue = [p for p in sorted(self.tables.open) if p.send_ts_ms < now_ms - OVERDUE_MS]
        return sum(repair(self.tables, self.tables.tasks.get(p.id), p, now_ms) for p in overdue)

    async def sweep_some(self, most: int, *, now_ms: int) -> int:
        """Of all tasks at once."""
        changed = 0
        for task in [*self.tables.tasks.values()]:
            position = Position(task.send_ts_ms, task.id)
            changed += repair(self.tables, task, position, now_ms)
            if self._is_over(task, now_ms):
                changed += 1 + drop_rows(self.tables, task)
                del self.tables.tasks[task.id]
        return changed

    def _is_over(self, task: Task, now_ms: int) -> bool:
        """Whether it is not kept any longer."""
        if task.state is TaskState.DELETED:
            return (task.purge_at_s or 0) * 1000 <= now_ms
        finished_ms = task.finished_ts_ms
        if not self.retention_ms or finished_ms is None:
            return False
        return finished_ms < now_ms - self.retention_ms

    def pressure(self) -> Pressure:
        return NO_PRESSURE


def put_rows(tables: Tables, task: Task) -> int:
    """Put what leads to an unfinished task; returns how many rows were missing."""
    assert task.due_at_ms is not None
    position = Position(task.send_ts_ms, task.id)
    before = tables.rows
    tables.hints[task.due_at_ms, task.id] = task.type
    tables.open.add(position)
    tables.all.add(position)
    return tables.rows - before


def drop_rows(tables: Tables, task: Task) -> int:
    """Delete what led to a deleted task; returns how many rows there were."""
    position = Position(task.send_ts_ms, task.id)
    before = tables.rows
    if task.due_at_ms is not None:
        tables.hints.pop((task.due_at_ms, task.id), None)
    for index in (tables.open, tables.failed, tables.all):
        index.discard(position)
    return before - tables.rows


def repair(tables: Tables, task: Task | None, position: Position, now_ms: int) -> int:
    """What a sweep does about one task and the row that names it."""
    if task is None:
        return 0
    if task.state in UNFINISHED:
        under_lease = task.state is TaskState.RUNNING and not task.is_claimable(now_ms)
        return 0 if under_lease else put_rows(tables, task)
    if task.state in FINISHED:
        found = position in tables.open
        tables.open.discard(position)
        return int(found)
    return drop_rows(tables, task)
