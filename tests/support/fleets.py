"""Processors and views on a store that can do only so much, all on the virtual clock."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.processing.context import Context
from chalicelib.processing.isolation import Isolated
from chalicelib.processing.processor import Processor
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.listing import Listing
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.records import Records
from chalicelib.store.alternator.store import PARALLEL_REQUESTS
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import VIEWS, Transport
from chalicelib.store.clock import StoreClock
from chalicelib.store.contract import TaskFilter
from chalicelib.task import Task
from chalicelib.task_types import Run
from tests.support.fakes import NOON_MS, Here, Ids, LoopClock, NoWatchdog, new_task
from tests.support.virtual_store import Costs, VirtualNode, WiredLoop, endpoint, opened

SHARDS = 16
DUE_S = 10.0
"""Tasks are due then: by that time all processors know each other."""


@dataclass
class Site:
    """A store of some nodes, and whoever asks it.

    new_clock: makes the wall clock of each process. due_s: when tasks are due. lines: what was
    printed, and when. starts_s: when handlers were started.
    """

    seed: int = 1
    node_count: int = 1
    handler_s: float = 0.0
    new_clock: Callable[[], Clock] = LoopClock
    due_s: float = DUE_S
    lines: list[tuple[float, str]] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    queues: list[AlternatorTaskQueue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.ids = Ids(self.seed)
        self.nodes: Sequence[VirtualNode] = opened(self.node_count)
        endpoints = tuple(endpoint(node) for node in self.nodes)
        self.settings = Settings(endpoints=endpoints, shards=SHARDS)

    @property
    def tables(self) -> Any:
        return self.nodes[0].tables

    def add(self, count: int, after_s: float = 0.0) -> None:
        indexes = Indexes("", SHARDS)
        send_ts_ms = NOON_MS + round((self.due_s + after_s) * 1000)
        for _ in range(count):
            task = new_task(self.ids, send_ts_ms=send_ts_ms, now_ms=NOON_MS)
            self.tables.put_task(task, indexes)

    def add_evenly(self, a_second: float, over_s: float) -> None:
        """One by one, from due_s on."""
        for number in range(round(a_second * over_s)):
            self.add(1, number / a_second)

    def add_one(self) -> Task:
        """Due long after every run."""
        task = new_task(self.ids, send_ts_ms=NOON_MS + 1_000_000, now_ms=NOON_MS)
        self.tables.put_task(task, Indexes("", SHARDS))
        return task

    def counts(self) -> Counter[str]:
        return sum((node.counts for node in self.nodes), Counter())

    def tasks(self) -> list[Task]:
        found: list[Task] = self.tables.tasks()
        return found

    def done(self, since_s: float, until_s: float) -> int:
        """Tasks finished in this time, as their records say."""
        ends_s = [((t.finished_ts_ms or 0) - NOON_MS) / 1000 for t in self.tasks()]
        return sum(since_s <= end_s < until_s for end_s in ends_s)

    def share(self, since_s: float, until_s: float) -> float:
        """Of what the store could do then, at two conditional writes a task, on all its nodes."""
        a_second = 1 / (2 * Costs().conditional_s) * self.node_count
        return self.done(since_s, until_s) / (until_s - since_s) / a_second

    def burst_share(self) -> float:
        """The same, of all tasks, from when they were due until the last one was finished."""
        last_ms = max(task.finished_ts_ms or 0 for task in self.tasks())
        return self.share(self.due_s, (last_ms - NOON_MS) / 1000 + 0.001)

    def run(self, processors: int, main: Callable[[], Awaitable[None]]) -> None:
        """Run `main` beside so many processors that started within the first 3 s; then end them."""

        async def both() -> None:
            stop = asyncio.Event()
            running = [
                asyncio.create_task(self._live(number, 3.0 * number / processors, stop))
                for number in range(processors)
            ]
            try:
                await main()
            finally:
                stop.set()
                await asyncio.gather(*running)

        with asyncio.Runner(loop_factory=lambda: WiredLoop(self.nodes)) as runner:
            runner.run(both())

    async def until_done(self, limit_s: float) -> None:
        while any(task.due_at_ms is not None for task in self.tasks()):
            assert asyncio.get_running_loop().time() < limit_s, self._left()
            await asyncio.sleep(1)

    def _left(self) -> str:
        return f"{Counter(task.state.value for task in self.tasks())}, {self.counts()}"

    async def _live(self, number: int, after_s: float, stop: asyncio.Event) -> None:
        await asyncio.sleep(after_s)
        clock, rng = StoreClock(self.new_clock()), Random(f"{self.seed} {number}")
        transport = Transport.open(self.settings, clock, rng=rng)
        queue = AlternatorTaskQueue(transport, clock, shards=SHARDS, rng=rng)
        self.queues.append(queue)
        loop = asyncio.get_running_loop()
        context = Context(
            id=str(number),
            queue=queue,
            clock=clock,
            rng=rng,
            settings=self.settings,
            emit=lambda line: self.lines.append((loop.time(), line)),
            handlers={"Baz": self._baz},
            isolate=self._isolated,
        )
        try:
            await Processor(context, NoWatchdog(), kind="worker").run(stop)
        finally:
            await queue.close()

    async def _baz(self, run: Run) -> str:
        self.starts_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.handler_s)
        return f"Baz {run.task.id}"

    async def _isolated(self, run: Run) -> Isolated:
        return Here(self._baz, run)


class Views:
    """What views ask of a store, as views share it with others; each call notes how long it took
    and what it raised."""

    def __init__(self, site: Site) -> None:
        """Call inside the site's event loop."""
        self._site = site
        clock, rng = LoopClock(), Random(site.seed)
        self._transport = Transport.open(site.settings, clock, sharing=VIEWS, rng=rng)
        requester = Requester(self._transport, clock, rng=rng)
        indexes, parallel = Indexes("", SHARDS), Parallel(PARALLEL_REQUESTS)
        rows = IndexRows(requester, indexes, clock, rng)
        self._records = Records(requester, rows, parallel, "tasks")
        self._listing = Listing(requester, indexes, parallel, "tasks", clock)
        self.took_s: dict[str, list[float]] = {}
        self.raised: Counter[str] = Counter()

    async def close(self) -> None:
        await self._transport.close()

    async def create(self) -> str:
        now_ms = LoopClock().now_ms()
        task = new_task(self._site.ids, send_ts_ms=NOON_MS + 1_000_000, now_ms=now_ms)
        return (await self._records.create(task)).id

    async def show(self, task_id: str) -> None:
        await self._records.get(task_id)

    async def list(self) -> None:
        """Fifty tasks, the oldest first."""
        await self._listing.list(TaskFilter())

    async def keep_calling(self) -> None:
        """Each call again half a second after its answer."""
        task_id = await self.create()

        async def again(name: str, call: Callable[[], Awaitable[Any]]) -> None:
            while True:
                await self.timed(name, call())
                await asyncio.sleep(0.5)

        await asyncio.gather(
            again("create", self.create),
            again("show", lambda: self.show(task_id)),
            again("list", self.list),
        )

    async def timed(self, name: str, call: Awaitable[Any]) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await call
        except Exception as error:
            self.raised[f"{name}: {type(error).__name__}"] += 1
        self.took_s.setdefault(name, []).append(loop.time() - began_s)
