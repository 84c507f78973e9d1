"""TaskQueue on Alternator, for processors: asynchronous."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple, Self

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable, UnreadableTask
from chalicelib.store.alternator import outcome, requests, time_index
from chalicelib.store.alternator.outcome import ConditionFailed, Unanswered, Unsent
from chalicelib.store.alternator.requests import Item, JsonObject, Request
from chalicelib.store.alternator.sweep import Sweeper
from chalicelib.store.alternator.tables import FLEET
from chalicelib.store.alternator.time_index import Announced, Indexes, Row
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.transport import Transport
from chalicelib.store.contract import Heartbeat, Hint, HintPage, Pressure, Refused
from chalicelib.task import Task, TaskState

TRY_LEAST_S = 0.05
"""With less time left than this it is not sent again: that would only hide why it failed."""
READ_DEADLINE_S = 8.0
CLEAN_BATCH = 25
CLEAN_PARALLEL = 4
CLEAN_KEPT = 30_000
"""Deletions that may wait for their time; of more, the oldest are sent."""
CLEAN_MAX = 50_000
"""Deletions waiting at most; beyond, the oldest are left to the sweep and the full scans."""


class Obsolete(NamedTuple):
    """A row to delete. asked_s: since when, by the monotonic clock. failed_id: the failed task that
    it led to, which may be run again meanwhile."""

    row: Row
    asked_s: float
    failed_id: str | None = None


class AlternatorTaskQueue:
    """The contract of TaskQueue. rng spreads the retries."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        prefix: str = "",
        shards: int = 16,
        rng: Random | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._tasks = f"{prefix}tasks"
        self._workers = f"{prefix}workers"
        self._shards = shards
        self._indexes = Indexes(prefix, shards)
        self._announced = Announced()
        self._rng = rng or Random()
        self._obsolete: dict[tuple[str, str, str], Obsolete] = {}
        self._sweeper = Sweeper(self, self._tasks, self._indexes, clock)

    @classmethod
    def open(cls, settings: Settings, clock: Clock) -> Self:
        """Call inside a running event loop; close() ends it."""
        transport = Transport.open(settings, clock)
        return cls(transport, clock, prefix=settings.table_prefix, shards=settings.shards)

    async def close(self) -> None:
        await self._transport.close()

    def may_claim(self, claiming: int, held: int) -> bool:
        return self._transport.may_claim(claiming, held)

    def pressure(self) -> Pressure:
        return self._transport.pressure()

    # Hints

    async def shards(self) -> Collection[int]:
        schedule = self._indexes.schedule
        rows = [row async for row in self.query(schedule.table, schedule.root)]
        return sorted({int(row["at"]["S"]) for row in rows} | set(range(self._shards)))

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        schedule = self._indexes.schedule
        low = resume or time_index.time_key(since_ms or 0)
        high = time_index.time_key(until_ms)
        if since_ms is None:
            buckets = await self._named_buckets(shard, time_index.time_of(low), until_ms)
        else:
            first = schedule.bucket_of(time_index.time_of(low))
            buckets = range(first, until_ms, schedule.bucket_ms)
        hints: list[Hint] = []
        for bucket in buckets:
            slot = schedule.slot(shard, bucket)
            wanted = limit - len(hints) + 1
            seen = False
            async for row in self.query(schedule.table, slot, between=(low, high), limit=wanted):
                seen = True
                if row["at"]["S"] == resume:
                    continue
                if len(hints) == limit:
                    last = hints[-1]
                    return HintPage(hints, time_index.at(last.due_at_ms, last.id))
                hints.append(time_index.hint_of(row))
            whole = time_index.time_of(low) <= bucket and bucket + schedule.bucket_ms <= until_ms
            if whole and not seen and schedule.may_close(bucket, self._clock.now_ms()):
                await self.write([schedule.bucket_row(shard, bucket)], delete=True)
        return HintPage(hints, None)

    async def _named_buckets(self, shard: int, since_ms: int, until_ms: int) -> Sequence[int]:
        """Those the directory names, and always the current one and the one of `until`."""
        schedule = self._indexes.schedule
        first = schedule.bucket_of(since_ms)
        span = (time_index.time_key(first), time_index.time_key(until_ms))
        directory = self.query(schedule.table, schedule.directory(shard), between=span)
        named = {time_index.time_of(row["at"]["S"]) async for row in directory}
        always = {schedule.bucket_of(ms) for ms in (self._clock.now_ms(), until_ms - 1)}
        return sorted(bucket for bucket in named | always if first <= bucket < until_ms)

    async def forget_hint(self, hint: Hint) -> None:
        await self._forget(self._indexes.hint_row(hint.due_at_ms, hint.id, hint.type))

    async def forget_open(self, task: Task) -> None:
        failed_id = task.id if task.state is TaskState.FAILED else None
        await self._forget(self._indexes.open.row(task.send_ts_ms, task.id), failed_id)

    async def _forget(self, row: Row, failed_id: str | None = None) -> None:
        one = Obsolete(row, self._clock.monotonic_s(), failed_id)
        self._obsolete.setdefault(row[:3], one)

    async def flush(self, *, age_s: float = 0.0) -> None:
        until_s = self._clock.monotonic_s() - age_s
        while batches := list(itertools.islice(self._ripe(until_s), CLEAN_PARALLEL)):
            outcomes = await asyncio.gather(
                *map(self._flush_batch, batches), return_exceptions=True
            )
            for failure in filter(None, outcomes):
                raise failure

    def _ripe(self, until_s: float) -> Iterator[Sequence[Obsolete]]:
        """Take batches of what was asked for until then, and of what there is no room for."""
        while self._obsolete:
            surplus = len(self._obsolete) - CLEAN_KEPT
            batch = [
                one
                for place, one in enumerate(itertools.islice(self._obsolete.values(), CLEAN_BATCH))
                if one.asked_s <= until_s or place < surplus
            ]
            if not batch:
                return
            for one in batch:
                del self._obsolete[one.row[:3]]
            yield batch

    async def _flush_batch(self, batch: Sequence[Obsolete]) -> None:
        """On failure the whole batch is kept: a part of it may have been applied."""
        try:
            await self.write([one.row for one in batch], delete=True, rank=Rank.CLEAN)
            await self._sweeper.put_again({one.failed_id for one in batch if one.failed_id})
        except (StoreUnavailable, asyncio.CancelledError):
            self._obsolete |= {one.row[:3]: one for one in batch}
            while len(self._obsolete) > CLEAN_MAX:
                del self._obsolete[next(iter(self._obsolete))]
            raise

    # Tasks

    async def claim(
        self, hint: Hint, *, claim: str, processor: str, now_ms: int, until_s: float
    ) -> Task | Refused:
        request = requests.claim(
            self._tasks, hint.id, claim=claim, processor=processor, now_ms=now_ms
        )
        patience_s = until_s - self._clock.monotonic_s()
        try:
            answer = await self.decide(request, key=hint.id, until_s=until_s, rank=Rank.CLAIM)
        except ConditionFailed as refused:
            task = refused.task()
        else:
            return requests.decode_task(answer["Attributes"])
        if task is not None and task.state is TaskState.RUNNING and task.is_claimable(now_ms):
            held = task.claimed(now_ms=now_ms, claim=claim, processor=processor)
            request = requests.change(self._tasks, task, held)
            until_s = self._clock.monotonic_s() + patience_s
            try:
                await self.decide(request, key=hint.id, until_s=until_s, rank=Rank.CLAIM)
            except ConditionFailed as refused:
                task = refused.task()
            else:
                return held
        return task if task is not None and task.claim == claim else Refused(task)

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        if settled.due_at_ms is not None:
            await self._put_hint(settled, until_s)
        request = requests.change(self._tasks, held, settled)
        try:
            await self.decide(request, key=held.id, until_s=until_s, rank=Rank.SETTLE)
        except ConditionFailed as refused:
            return requests.was_settled(refused.item, held, settled)
        return True

    async def _put_hint(self, task: Task, until_s: float) -> None:
        assert task.due_at_ms is not None
        place = [(self._indexes.schedule, task.due_at_ms)]
        now_ms = self._clock.now_ms()
        missing = self._announced.missing(place, task.id, now_ms)
        await self.write(missing, until_s=until_s, rank=Rank.SETTLE)
        row = self._indexes.hint_row(task.due_at_ms, task.id, task.type)
        await self.write([row], until_s=until_s, rank=Rank.SETTLE)
        self._announced.remember(place, task.id, now_ms)

    async def get(self, task_ids: Collection[str]) -> Mapping[str, Task | None]:
        keys: Sequence[Item] = [{"id": {"S": task_id}} for task_id in dict.fromkeys(task_ids)]
        tasks: dict[str, Task | None] = {}
        async for item in self.get_items(self._tasks, keys):
            try:
                tasks[item["id"]["S"]] = requests.decode_task(item)
            except UnreadableTask:
                tasks[item["id"]["S"]] = None
        return tasks

    # Heartbeats

    async def beat(self, heartbeat: Heartbeat) -> None:
        item: JsonObject = {
            "fleet": {"S": FLEET},
            "processor": {"S": heartbeat.processor},
            "kind": {"S": heartbeat.kind},
            "beat_ms": {"N": str(heartbeat.beat_ms)},
            "interval_ms": {"N": str(heartbeat.interval_ms)},
        }
        if heartbeat.held_back_s:
            item["held_back_s"] = {"N": str(heartbeat.held_back_s)}
        await self.decide(requests.put_row(self._workers, item), rank=Rank.BEAT)

    async def heartbeats(self) -> Sequence[Heartbeat]:
        request = requests.query(self._workers, "fleet", FLEET)
        rows = self.pages(request, rank=Rank.BEAT)
        return [requests.decode_heartbeat(row) async for row in rows]

    async def leave(self, processor: str) -> None:
        key: Item = {"fleet": {"S": FLEET}, "processor": {"S": processor}}
        await self.decide(requests.delete_row(self._workers, key), rank=Rank.BEAT)

    # Sweeps

    async def sweep_overdue(self, *, now_ms: int) -> int:
        return await self._sweeper.overdue(now_ms)

    async def sweep_segment(self, segment: int, segments: int, *, now_ms: int) -> int:
        return await self._sweeper.segment(segment, segments, now_ms)

    # Requests

    async def query(
        self,
        table: str,
        slot: str,
        *,
        between: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Item]:
        """All rows in order; `limit` is the size of a page. An empty page is not the last."""
        request = requests.query(table, "slot", slot, between=between, limit=limit)
        async for row in self.pages(request):
            yield row

    async def pages(self, request: Request, *, rank: Rank = Rank.READ) -> AsyncIterator[Item]:
        """The items of all pages of a Query or a Scan."""
        body = request.body
        while True:
            answer = await self.decide(Request(request.action, body), rank=rank)
            for item in answer["Items"]:
                yield item
            if not answer.get("LastEvaluatedKey"):
                return
            body = request.body | {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def get_items(self, table: str, keys: Sequence[Item]) -> AsyncIterator[Item]:
        """Consistent reads of any number of distinct keys."""
        for start in range(0, len(keys), 100):
            left = keys[start : start + 100]
            while left:
                answer = await self.decide(requests.get_many(table, left))
                for item in answer["Responses"].get(table, []):
                    yield item
                left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])

    async def write(
        self,
        rows: Iterable[Row],
        *,
        delete: bool = False,
        until_s: float | None = None,
        rank: Rank = Rank.READ,
    ) -> None:
        """Put or delete rows, each batch whole: a failed one is sent again as it was."""
        for request in time_index.batches(rows, delete=delete):
            left = request
            while left.body["RequestItems"]:
                answer = await self.decide(left, until_s=until_s, rank=rank)
                unprocessed = answer.get("UnprocessedItems") or {}
                left = Request("BatchWriteItem", {"RequestItems": unprocessed})

    async def decide(
        self,
        request: Request,
        *,
        key: str | None = None,
        until_s: float | None = None,
        rank: Rank = Rank.READ,
    ) -> JsonObject:
        """Send until answered: never anew before the last try has come to nothing.

        Raises ConditionFailed, StoreBusy, StoreUnavailable or StoreMismatch.
        """
        if until_s is None:
            until_s = self._clock.monotonic_s() + READ_DEADLINE_S
        cause: Exception | None = None
        was_sent = False
        for attempt, pause_s in enumerate(outcome.pauses_s(self._rng)):
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= (TRY_LEAST_S if cause else 0):
                break
            try:
                return await self._transport.send(
                    request,
                    key=key,
                    attempt=attempt,
                    timeout_s=left_s,
                    rank=rank,
                    is_repeated=was_sent,
                )
            except Unanswered as error:
                cause = error
                was_sent = was_sent or not isinstance(error, Unsent)
            except StoreBusy as error:
                cause = error
                break
            await asyncio.sleep(min(pause_s, max(0.0, left_s)))
        kind = StoreUnavailable if was_sent else StoreBusy
        raise kind(f"the store does not answer: {cause}", cause=str(cause)) from cause
