"""TaskStore on Alternator, for the views: blocking."""

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Self, TypeVar

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import (
    SchedulerError,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
    TaskExists,
    TaskNotFailed,
    TaskNotFound,
    TaskRunning,
    UnreadableTask,
)
from chalicelib.store.alternator import requests, tables, time_index
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.requests import Item, Request
from chalicelib.store.alternator.time_index import Announced, Indexes, Row, TimeIndex
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.contract import (
    PAGE_PAYLOAD_CHARS,
    Heartbeat,
    Position,
    Pressure,
    TaskFilter,
    TaskPage,
)
from chalicelib.task import UNFINISHED, Task, TaskState

T = TypeVar("T")
R = TypeVar("R")

EXAMINED_MAX = 2_000
DIRECTORY_PAGE = 200
PARALLEL_QUERIES = 16
WRITE_CHECK_S = 5.0


class AlternatorTaskStore:
    """The contract of TaskStore.

    examined_max: a page is cut short after about so many rows that did not fit its filter.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        prefix: str = "",
        shards: int = 16,
        examined_max: int = EXAMINED_MAX,
    ) -> None:
        self._client = client
        self._listing = client.ranked(Rank.LIST)
        self._clock = clock
        self._prefix = prefix
        self._tasks = f"{prefix}tasks"
        self._indexes = Indexes(prefix, shards)
        self._announced = Announced()
        self._announced_lock = Lock()
        self._examined_max = examined_max
        self._pool = ThreadPoolExecutor(PARALLEL_QUERIES, thread_name_prefix="query")

    @classmethod
    def connect(cls, settings: Settings, clock: Clock) -> Self:
        prefix, shards = settings.table_prefix, settings.shards
        return cls(Client.connect(settings, clock), clock, prefix=prefix, shards=shards)

    def check(self) -> None:
        tables.verify(self._client, self._prefix)

    def check_writes(self) -> None:
        request = requests.put_row(f"{self._prefix}workers", tables.NO_FLEET)
        until_s = self._clock.monotonic_s() + WRITE_CHECK_S
        try:
            self._client.decide(request, deadline_s=until_s)
        except StoreBusy:
            raise
        except StoreUnavailable as error:
            raise StoreReadOnly(f"the store takes no writes: {error}") from error

    def create(self, task: Task) -> Task:
        deadline_s = self._client.deadline_s()
        self._put_rows([task], deadline_s)
        return self._put(task, deadline_s)

    def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
        """Known ones are found first: no rows are put again that may have been taken away."""
        deadline_s = self._client.deadline_s()
        try:
            known = self._get_many([task.id for task in tasks], deadline_s)
            self._put_rows([task for task in tasks if task.id not in known], deadline_s)
        except SchedulerError as error:
            return [error] * len(tasks)

        def created(task: Task) -> Task | SchedulerError:
            try:
                if task.id in known:
                    return _same_create(task, known[task.id])
                return self._put(task, deadline_s)
            except SchedulerError as error:
                return error

        return self._map(created, tasks)

    def _put(self, task: Task, deadline_s: float) -> Task:
        try:
            self._client.decide(
                requests.create(self._tasks, task), key=task.id, deadline_s=deadline_s
            )
        except ConditionFailed as refused:
            return _same_create(task, requests.decode_task(refused.item or {}))
        return task

    def get(self, task_id: str) -> Task:
        answer = self._client.decide(requests.get(self._tasks, task_id))
        return _there(task_id, requests.decode_task(answer["Item"]) if "Item" in answer else None)

    def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        request = requests.delete(self._tasks, task_id, now_ms=now_ms, token=token)
        try:
            before = self._client.decide(request, key=task_id)["Attributes"]
        except ConditionFailed as refused:
            if not requests.was_deleted(refused.item, token):
                raise self._not_deletable(task_id, refused.task()) from None
            before = {}
        if before:
            self._drop_rows(requests.decode_task(before))

    def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        """Its hint and its `open` row are put before. Afterwards `open` is put again: who deletes
        this row of a failed task looks at the task once more, and puts it again if it was run
        again before that look."""
        deadline_s = self._client.deadline_s()
        failed = self.get(task_id)
        while failed.token != token:
            if failed.state is not TaskState.FAILED:
                raise TaskNotFailed(failed)
            retried = failed.retried(now_ms=now_ms, token=token)
            self._put_rows([retried], deadline_s)
            request = requests.retry(self._tasks, failed, retried)
            try:
                self._client.decide(request, key=task_id, deadline_s=deadline_s)
            except ConditionFailed as refused:
                failed = _there(task_id, refused.task())
                continue
            self._put_open_again(retried)
            return retried
        self._put_open_again(failed)
        return failed

    def list(self, filter: TaskFilter) -> TaskPage:
        index = self._indexes.open if filter.walks_open else self._indexes.all
        found: list[Task] = []
        examined = payload_chars = 0
        rows = self._walk(index, filter)
        while chunk := list(itertools.islice(rows, min(100, max(filter.limit + 1, 50)))):
            tasks = self._get_many([position.id for position in chunk])
            for position in chunk:
                task = tasks.get(position.id)
                # A create that lost against another under its id may have left rows elsewhere.
                is_its_row = task is not None and task.send_ts_ms == position.send_ts_ms
                if task is not None and is_its_row and filter.accepts(task):
                    if len(found) == filter.limit or payload_chars >= PAGE_PAYLOAD_CHARS:
                        return TaskPage(found, Position(found[-1].send_ts_ms, found[-1].id))
                    found.append(task)
                    payload_chars += len(task.payload or "")
            examined += len(chunk)
            if examined >= self._examined_max:
                return TaskPage(found, chunk[-1])
        return TaskPage(found, None)

    def pressure(self) -> Pressure:
        return self._client.pressure()

    def heartbeats(self) -> Sequence[Heartbeat]:
        rows = self._client.items(requests.query(f"{self._prefix}workers", "fleet", tables.FLEET))
        return [requests.decode_heartbeat(row) for row in rows]

    def has_hint(self, task: Task) -> bool:
        if task.due_at_ms is None:
            return False
        row = self._indexes.hint_row(task.due_at_ms, task.id, task.type)
        return "Item" in self._client.decide(requests.get_row(row.table, row.key))

    def _not_deletable(self, task_id: str, task: Task | None) -> Exception:
        if task is not None and task.state is TaskState.RUNNING:
            return TaskRunning(task)
        return TaskNotFound(id=task_id)

    # Rows that lead to a task

    def _put_rows(self, tasks: Sequence[Task], deadline_s: float) -> None:
        """The directory first, then hint, `open` and `all`: a crash leaves surplus rows only."""
        now_ms = self._clock.now_ms()
        places = {task.id: self._indexes.times(task) for task in tasks}
        self._write(time_index.batches(self._missing(places, now_ms)), deadline_s)
        rows = [row for task in tasks for row in self._indexes.rows(task)]
        self._write(time_index.batches(rows), deadline_s)
        # A bucket that is over may have been closed while we wrote its first row.
        over = {
            id: [(index, time) for index, time in pairs if index.is_over(time, now_ms)]
            for id, pairs in places.items()
        }
        self._write(time_index.batches(self._missing(over, now_ms)), deadline_s)
        with self._announced_lock:
            for id, pairs in places.items():
                self._announced.remember(pairs, id, now_ms)

    def _missing(
        self, places: Mapping[str, Sequence[tuple[TimeIndex, int]]], now_ms: int
    ) -> Sequence[Row]:
        """Directory rows to put before those of the tasks with these ids."""
        with self._announced_lock:
            return [
                row
                for id, pairs in places.items()
                for row in self._announced.missing(pairs, id, now_ms)
            ]

    def _put_open_again(self, task: Task) -> None:
        """What the store keeps from us is left to the slow sweep."""
        if task.state not in UNFINISHED:
            return
        with contextlib.suppress(StoreUnavailable):
            deadline_s = self._client.deadline_s()
            row, *directory = self._indexes.open_rows(task)
            self._write(time_index.batches([row]), deadline_s)
            self._write(time_index.batches(directory), deadline_s)

    def _drop_rows(self, before: Task) -> None:
        """What a deleted task leaves; the sweep takes what a crash or the store keeps from us."""
        try:
            rows = self._indexes.rows(before)
            self._write(time_index.batches(rows, delete=True), self._client.deadline_s())
        except StoreUnavailable:
            return

    def _write(self, writes: Iterable[Request], deadline_s: float) -> None:
        for request in writes:
            while request.body["RequestItems"]:
                answer = self._client.decide(request, deadline_s=deadline_s)
                left = answer.get("UnprocessedItems") or {}
                request = Request("BatchWriteItem", {"RequestItems": left})

    # Walking the timeline

    def _walk(self, index: TimeIndex, filter: TaskFilter) -> Iterator[Position]:
        """Positions behind `after`, in order, from all shards; fetched as they are consumed.

        A task can have a row in two shards, if SHARDS was changed: they stand side by side.
        """
        shards = self._shards(index)
        low = max(filter.since_ms or time_index.YEAR_ONE_MS, time_index.YEAR_ONE_MS)
        high = filter.until_ms
        if filter.after is not None and not filter.descending:
            low = max(low, filter.after.send_ts_ms)
        if filter.after is not None and filter.descending:
            last = filter.after.send_ts_ms + 1
            high = last if high is None else min(high, last)
        span = (time_index.time_key(low), "9" * 15 if high is None else time_index.time_key(high))
        previous: Position | None = None
        for bucket, owners in self._buckets(index, shards, span, filter.descending):
            for position in self._bucket(index, bucket, owners, span, filter):
                if position != previous and filter.is_ahead(position):
                    yield position
                previous = position

    def _shards(self, index: TimeIndex) -> Sequence[int]:
        rows = self._listing.items(requests.query(index.table, "slot", index.root))
        return sorted({int(row["at"]["S"]) for row in rows})

    def _buckets(
        self, index: TimeIndex, shards: Sequence[int], span: tuple[str, str], descending: bool
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Buckets that overlap the span, in order, each with the shards whose directory has it."""
        first = time_index.time_key(index.bucket_of(time_index.time_of(span[0])))
        streams = self._map(
            lambda shard: self._directory(index, shard, (first, span[1]), descending), shards
        )
        merged = heapq.merge(*streams, reverse=descending)
        for bucket, group in itertools.groupby(merged, key=lambda pair: pair[0]):
            yield bucket, [shard for _, shard in group]

    def _directory(
        self, index: TimeIndex, shard: int, between: tuple[str, str], descending: bool
    ) -> Iterator[tuple[int, int]]:
        """The first page is fetched now, so that shards can be asked side by side."""
        request = requests.query(
            index.table,
            "slot",
            index.directory(shard),
            between=between,
            limit=DIRECTORY_PAGE,
            descending=descending,
        )
        rows = self._listing.items(request)
        return ((time_index.time_of(row["at"]["S"]), shard) for row in rows)

    def _bucket(
        self,
        index: TimeIndex,
        bucket: int,
        shards: Sequence[int],
        span: tuple[str, str],
        filter: TaskFilter,
    ) -> Iterator[Position]:
        def stream(shard: int) -> Iterator[Position]:
            request = requests.query(
                index.table,
                "slot",
                index.slot(shard, bucket),
                between=span,
                limit=max(filter.limit + 1, 50),
                descending=filter.descending,
            )
            return map(time_index.position_of, self._listing.items(request))

        return heapq.merge(*self._map(stream, shards), reverse=filter.descending)

    def _get_many(self, ids: Sequence[str], deadline_s: float | None = None) -> Mapping[str, Task]:
        """Records of a newer version are left out."""
        keys: Sequence[Item] = [{"id": {"S": id}} for id in dict.fromkeys(ids)]
        tasks: dict[str, Task] = {}
        for item in self._client.get_items(self._tasks, keys, deadline_s=deadline_s):
            try:
                tasks[item["id"]["S"]] = requests.decode_task(item)
            except UnreadableTask:
                continue
        return tasks

    def _map(self, function: Callable[[T], R], items: Sequence[T]) -> Sequence[R]:
        if len(items) == 1:
            return [function(items[0])]
        return list(self._pool.map(function, items))


def _there(task_id: str, task: Task | None) -> Task:
    """Raises TaskNotFound if there is no task any more."""
    if task is None or task.state is TaskState.DELETED:
        raise TaskNotFound(id=task_id)
    return task


def _same_create(task: Task, stored: Task) -> Task:
    """What stands under the id of a task to create. Raises TaskExists if another create made it."""
    if stored.token != task.token:
        raise TaskExists(stored)
    return stored
