"""TaskQueue on Alternator, for processors: asynchronous."""

from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Self

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.statistics import StatisticsRow
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.heartbeats import Heartbeats
from chalicelib.store.alternator.hints import Hints
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.moving import Mover
from chalicelib.store.alternator.obsolete import ObsoleteRows
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.pruning import Pruning
from chalicelib.store.alternator.statistics import StatisticsRows
from chalicelib.store.alternator.sweep import Sweeper
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.observed import Observe, Observed
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import Transport
from chalicelib.store.contract import Heartbeat, Hint, HintPage, Pressure, Refused
from chalicelib.task import Task, TaskState

SWEEP_PARALLEL = 4


class AlternatorTaskQueue:
    """The contract of TaskQueue. rng spreads the retries. retention_days: see Settings. observe:
    told of each request."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        prefix: str = "",
        shards: int = 16,
        retention_days: int = 0,
        rng: Random | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._tasks = f"{prefix}tasks"
        self._indexes = Indexes(prefix, shards)
        wire = Observed(transport, observe) if observe else transport
        requester = Requester(wire, clock, rng=rng, rank=Rank.READ)
        self._requester = requester
        self._rows = IndexRows(requester, self._indexes, clock, rng)
        self._hints = Hints(requester, self._indexes.schedule, clock)
        self._heartbeats = Heartbeats(requester, f"{prefix}workers", Rank.HEARTBEAT)
        self._statistics = StatisticsRows(requester, f"{prefix}workers")
        pruning = Pruning(requester, self._rows, self._indexes, self._tasks, clock)
        mover = Mover(requester, self._rows, self._indexes, self._tasks, clock)
        parallel = Parallel(SWEEP_PARALLEL)
        self._sweeper = Sweeper(
            requester, pruning, mover, self._indexes, parallel, prefix, clock, retention_days
        )
        self._obsolete = ObsoleteRows(requester, pruning, clock)

    @classmethod
    def open(cls, settings: Settings, clock: Clock, observe: Observe | None = None) -> Self:
        """Call inside a running event loop; close() ends it."""
        transport = Transport.open(settings, clock)
        return cls(
            transport,
            clock,
            prefix=settings.table_prefix,
            shards=settings.shards,
            retention_days=settings.retention_days,
            observe=observe,
        )

    async def close(self) -> None:
        await self._transport.close()

    def may_claim(self, claiming: int, held: int) -> bool:
        return self._transport.may_claim(claiming, held)

    def pressure(self) -> Pressure:
        return self._transport.pressure()

    # Hints

    async def shards(self) -> Collection[int]:
        return await self._hints.shards()

    async def occupied(
        self, shards: Collection[int], *, since_ms: int, until_ms: int
    ) -> Collection[int]:
        return await self._hints.occupied(shards, since_ms=since_ms, until_ms=until_ms)

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        return await self._hints.due(
            shard, since_ms=since_ms, until_ms=until_ms, limit=limit, resume=resume
        )

    async def forget_hint(self, hint: Hint) -> None:
        self._obsolete.add(self._indexes.schedule.row_of(hint))

    async def forget_open(self, task: Task) -> None:
        failed_id = task.id if task.state is TaskState.FAILED else None
        for row in self._indexes.obsolete(task):
            self._obsolete.add(row, failed_id)

    async def flush(self, *, age_s: float = 0.0) -> None:
        await self._obsolete.flush(age_s)

    # Tasks

    async def claim(
        self, hint: Hint, *, claim: str, processor: str, now_ms: int, until_s: float
    ) -> Task | Refused:
        patience_s = until_s - self._clock.monotonic_s()
        request = requests.claim(
            self._tasks, hint.id, claim=claim, processor=processor, now_ms=now_ms
        )
        try:
            answer = await self._requester.decide(
                request, key=hint.id, deadline_s=until_s, rank=Rank.CLAIM
            )
        except ConditionFailed as refused:
            task = refused.task()
        else:
            return requests.decode_task(answer["Attributes"])
        if task is not None and task.state is TaskState.RUNNING and task.is_claimable(now_ms):
            held = task.claimed(now_ms=now_ms, claim=claim, processor=processor)
            return await self._claim_again(task, held, self._clock.monotonic_s() + patience_s)
        return _granted(task, claim)

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
        stands = await self._stands(hint.id, until_s)
        while True:  # Each of `lost` can hold the task once.
            if (dead := _held_by(stands, lost)) is not None:
                held = dead.taken_over(now_ms=now_ms, claim=claim, processor=processor)
                answer = await self._claim_again(dead, held, until_s)
            else:
                answer = await self.claim(
                    hint, claim=claim, processor=processor, now_ms=now_ms, until_s=until_s
                )
            if isinstance(answer, Task) or _held_by(answer.task, lost) is None:
                return answer
            stands = answer.task

    async def _stands(self, task_id: str, until_s: float) -> Task | None:
        """The task as last committed. Raises StoreBusy: no write was sent."""
        try:
            answer = await self._requester.decide(
                requests.get(self._tasks, task_id), deadline_s=until_s, rank=Rank.CLAIM
            )
        except StoreUnavailable as error:
            raise StoreBusy(str(error), **error.details) from error
        return requests.decode_task(answer["Item"]) if "Item" in answer else None

    async def _claim_again(self, task: Task, held: Task, deadline_s: float) -> Task | Refused:
        """`held` in place of `task`, unless others came before."""
        request = requests.change(self._tasks, task, held)
        try:
            await self._requester.decide(
                request, key=task.id, deadline_s=deadline_s, rank=Rank.CLAIM
            )
        except ConditionFailed as refused:
            return _granted(refused.task(), held.claim)
        return held

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        if settled.due_at_ms is not None:
            await self._rows.put_hint(settled, until_s)
        elif settled.state is TaskState.FAILED:
            settled = await self._rows.put_failed(settled, until_s)
        request = requests.change(self._tasks, held, settled)
        try:
            await self._requester.decide(request, key=held.id, deadline_s=until_s, rank=Rank.SETTLE)
        except ConditionFailed as refused:
            return requests.was_settled(refused.item, held, settled)
        return True

    async def get(self, task_ids: Collection[str]) -> Mapping[str, Task | None]:
        return await tasks_by_id(self._requester, self._tasks, task_ids)

    # Heartbeats

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        await self._heartbeats.put(heartbeat)

    async def heartbeats(self) -> Sequence[Heartbeat]:
        return await self._heartbeats.all()

    async def leave(self, processor: str) -> None:
        await self._heartbeats.delete(processor)

    async def put_statistics(self, rows: Sequence[StatisticsRow]) -> None:
        await self._statistics.put(rows)

    # Sweeps

    async def sweep_overdue(self, *, now_ms: int) -> int:
        return await self._sweeper.overdue(now_ms)

    async def sweep_some(self, most: int, *, now_ms: int) -> int:
        return await self._sweeper.some(most, now_ms)


def _held_by(task: Task | None, claims: Collection[str]) -> Task | None:
    """The task, if one of these claims holds it."""
    is_held = task is not None and task.state is TaskState.RUNNING and task.claim in claims
    return task if is_held else None


def _granted(stands: Task | None, claim: str | None) -> Task | Refused:
    """What a refused claim comes to: the task if this very claim had been applied before."""
    return stands if stands is not None and stands.claim == claim else Refused(stands)
