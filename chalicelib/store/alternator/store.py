"""TaskStore on Alternator, for the views: it blocks until its requester has done the work."""

from collections.abc import Sequence
from random import Random
from typing import Self

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError, StoreBusy, StoreReadOnly, StoreUnavailable
from chalicelib.statistics import StatisticsPage, Step
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.heartbeats import Heartbeats
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.listing import EXAMINED_MAX, Listing
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.records import Records
from chalicelib.store.alternator.statistics import StatisticsRows
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.contract import Heartbeat, Pressure, TaskFilter, TaskPage
from chalicelib.task import Task

PARALLEL_REQUESTS = 16
WRITE_CHECK_S = 5.0


class AlternatorTaskStore:
    """The contract of TaskStore. Each call runs as one coroutine in the event loop of `client`.

    examined_max: see Listing. rng: draws the lots of Density.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        prefix: str = "",
        shards: int = 16,
        examined_max: int = EXAMINED_MAX,
        rng: Random | None = None,
    ) -> None:
        requester, tasks = client.requester, f"{prefix}tasks"
        indexes, parallel = Indexes(prefix, shards), Parallel(PARALLEL_REQUESTS)
        self._client = client
        self._clock = clock
        self._prefix = prefix
        self._rows = IndexRows(requester, indexes, clock, rng)
        self._records = Records(requester, self._rows, parallel, tasks)
        self._listing = Listing(requester, indexes, parallel, tasks, clock, examined_max)
        self._heartbeats = Heartbeats(requester, f"{prefix}workers", Rank.VIEW)
        self._statistics = StatisticsRows(requester, f"{prefix}workers")

    @classmethod
    def connect(cls, settings: Settings, clock: Clock) -> Self:
        prefix, shards = settings.table_prefix, settings.shards
        return cls(Client.connect(settings, clock), clock, prefix=prefix, shards=shards)

    def create(self, task: Task) -> Task:
        return self._client.run(self._records.create(task))

    def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
        return self._client.run(self._records.create_many(tasks))

    def get(self, task_id: str) -> Task:
        return self._client.run(self._records.get(task_id))

    def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        self._client.run(self._records.delete(task_id, now_ms=now_ms, token=token))

    def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        return self._client.run(self._records.retry(task_id, now_ms=now_ms, token=token))

    def list(self, filter: TaskFilter) -> TaskPage:
        return self._client.run(self._listing.list(filter))

    def heartbeats(self) -> Sequence[Heartbeat]:
        return self._client.run(self._heartbeats.all())

    def statistics(self, step: Step, *, since_ms: int, until_ms: int) -> StatisticsPage:
        return self._client.run(self._statistics.read(step, since_ms, until_ms))

    def has_hint(self, task: Task) -> bool:
        return self._client.run(self._rows.has_hint(task))

    def pressure(self) -> Pressure:
        return self._client.pressure()

    def check(self) -> None:
        tables.verify(self._client, self._prefix)

    def check_writes(self) -> None:
        deadline_s = self._clock.monotonic_s() + WRITE_CHECK_S
        try:
            self._client.run(self._heartbeats.put_nobody(deadline_s))
        except StoreBusy:
            raise
        except StoreUnavailable as error:
            raise StoreReadOnly(f"the store takes no writes: {error}") from error
