"""How soon the tasks of dead processors run again, in virtual time.

Processors die again and again, those that would take over among them. What a death leaves behind
must be claimed within a lease and 2 s, counted from the death. A seed replays exactly:
`RECOVERY_SEED=17 python -m pytest tests/test_recovery.py`.
"""

import asyncio
import functools
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.config import Settings
from chalicelib.processing.context import Context
from chalicelib.processing.isolation import Isolated
from chalicelib.processing.processor import Processor
from chalicelib.store.contract import Heartbeat, Hint, HintPage, Refused
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables
from chalicelib.task import FINISHED, Task, TaskState
from chalicelib.task_types import Run
from tests.support.fakes import Here, Ids, LoopClock, NoWatchdog, new_task, run_virtually

SEEDS = int(os.environ.get("RECOVERY_SEEDS", "3"))
TROUBLE_S = 60.0
QUIET_S = 120.0
"""So long that whatever lost many leases has rested."""
RESTART_S = (0.3, 1.5)
WITHIN_S = LEASE_MS / 1000 + 2
SETTINGS = Settings(shards=16)


@dataclass
class World:
    """A fleet of `size`, of which one dies about every `every_s`.

    recovered_s: how long after its processor's death each task was claimed again, without the time
    in which nobody lived.
    """

    seed: int
    size: int
    every_s: float
    tables: Tables = field(default_factory=Tables)
    died_s: dict[str, float] = field(default_factory=dict)
    born_s: dict[str, float] = field(default_factory=dict)
    recovered_s: list[float] = field(default_factory=list)
    never: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.rng = Random(f"{self.seed} {self.size} {self.every_s}")
        self.ids = Ids(self.seed)

    def lived_s(self, since_s: float, until_s: float) -> float:
        """For how long of this time at least one processor lived."""
        lived_s = 0.0
        for name, born_s in self.born_s.items():
            died_s = min(self.died_s.get(name, until_s), until_s)
            lived_s += max(0.0, died_s - max(born_s, since_s))
            since_s = max(since_s, died_s)
        return lived_s


class Queue(MemoryQueue):
    """The memory queue a few milliseconds away. To who is dead it never answers."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.tables, shards=SETTINGS.shards)
        self._world = world
        self._name = name

    async def _travel(self) -> None:
        await asyncio.sleep(self._world.rng.uniform(0.001, 0.02))
        if self._name in self._world.died_s:
            await self._world.never.wait()

    async def occupied(self, shards: Collection[int], **options: Any) -> Collection[int]:
        await self._travel()
        return await super().occupied(shards, **options)

    async def due(self, shard: int, **options: Any) -> HintPage:
        await self._travel()
        return await super().due(shard, **options)

    async def get(self, task_ids: Collection[str]) -> Mapping[str, Task | None]:
        await self._travel()
        return await super().get(task_ids)

    async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
        await self._travel()
        before = self.tables.tasks[hint.id]
        answer = await super().claim(hint, **options)
        if isinstance(answer, Task) and before.state is TaskState.RUNNING and before.processor:
            now_s, died_s = asyncio.get_running_loop().time(), self._world.died_s[before.processor]
            self._world.recovered_s.append(self._world.lived_s(died_s, now_s))
        return answer

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        await self._travel()
        return await super().settle(held, settled, until_s=until_s)

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        await self._travel()
        await super().put_heartbeat(heartbeat)

    async def heartbeats(self) -> Sequence[Heartbeat]:
        await self._travel()
        return await super().heartbeats()

    async def leave(self, processor: str) -> None:
        await self._travel()
        await super().leave(processor)


async def handler(run: Run) -> str:
    await asyncio.sleep(Random(run.task.id).uniform(0, 4))
    return run.task.id


async def isolate(run: Run) -> Isolated:
    return Here(handler, run)


async def live(
    world: World, die: asyncio.Event, stop: asyncio.Event, queue: type[Queue] = Queue
) -> None:
    """One processor until it is told to die or to stop."""
    name = world.ids()
    world.born_s[name] = asyncio.get_running_loop().time()
    context = Context(
        id=name,
        queue=queue(world, name),
        clock=LoopClock(world.rng.randint(-200, 200)),
        rng=Random(name),
        settings=SETTINGS,
        emit=lambda line: None,
        handlers={"any": handler},
        isolate=isolate,
    )
    running = asyncio.create_task(Processor(context, NoWatchdog(), kind="worker").run(stop))
    dying = asyncio.create_task(die.wait())
    await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if not running.done():
        world.died_s[name] = asyncio.get_running_loop().time()
        running.cancel()


async def place(world: World, die: asyncio.Event, stop: asyncio.Event) -> None:
    """A processor, and another after each that died."""
    while not stop.is_set():
        await live(world, die, stop)
        die.clear()
        await asyncio.sleep(world.rng.uniform(*RESTART_S))


async def run_world(world: World) -> None:
    clock, store, stop = LoopClock(), MemoryStore(world.tables), asyncio.Event()
    for _ in range(400):
        send_ts_ms = clock.now_ms() + world.rng.randrange(round(TROUBLE_S * 1000))
        store.create(new_task(world.ids, send_ts_ms=send_ts_ms, now_ms=clock.now_ms(), type="any"))
    deaths = [asyncio.Event() for _ in range(world.size)]
    places = [asyncio.create_task(place(world, die, stop)) for die in deaths]
    until_s = asyncio.get_running_loop().time() + TROUBLE_S
    while asyncio.get_running_loop().time() < until_s:
        await asyncio.sleep(world.every_s * world.rng.uniform(0.2, 1.8))
        world.rng.choice(deaths).set()
    await asyncio.sleep(QUIET_S)
    stop.set()
    await asyncio.gather(*places)


@pytest.mark.parametrize("every_s", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_recovery_takes_a_lease_and_2_s_at_most(size: int, every_s: float) -> None:
    chosen = os.environ.get("RECOVERY_SEED")
    for seed in [int(chosen)] if chosen else range(SEEDS):
        world = World(seed, size, every_s)
        run_virtually(functools.partial(run_world, world))
        ended = {task.state for task in world.tables.tasks.values()}
        assert ended == {TaskState.COMPLETED}, "no death is the task's"
        assert len(world.recovered_s) > 10
        assert max(world.recovered_s) <= WITHIN_S, f"RECOVERY_SEED={seed}"


# Fleets that were idle


IDLE_S = 30.0
LATE_S = 9.0
"""What was never claimed starts this late at most after its owner died in silence."""


async def run_idle(world: World, death_s: float, tasks: int) -> list[int]:
    """One of an idle fleet dies; tasks come from 1 s before its death to 10 s after it.

    Returns their lateness in ms, of those that nobody had claimed before.
    """
    clock, store, stop = LoopClock(), MemoryStore(world.tables), asyncio.Event()
    deaths = [asyncio.Event() for _ in range(world.size)]
    fleet = [asyncio.create_task(live(world, die, stop)) for die in deaths]
    await asyncio.sleep(death_s - 1)
    first_ms = clock.now_ms()

    async def create(number: int) -> Task:
        await asyncio.sleep(11 * number / tasks)
        now_ms = clock.now_ms()
        return store.create(new_task(world.ids, send_ts_ms=now_ms, now_ms=now_ms, type="any"))

    creating = [asyncio.create_task(create(number)) for number in range(tasks)]
    await asyncio.sleep(1)
    deaths[0].set()
    await asyncio.sleep(40)
    stop.set()
    await asyncio.gather(*fleet, *creating)
    assert clock.now_ms() - first_ms > 40_000
    assert {task.state for task in world.tables.tasks.values()} <= FINISHED
    return [task.lateness_ms or 0 for task in world.tables.tasks.values() if task.attempt == 1]


@pytest.mark.parametrize("tasks", [40, 400])
@pytest.mark.parametrize("size", [2, 3, 16])
def test_death_in_an_idle_fleet_is_noticed_in_time(size: int, tasks: int) -> None:
    for seed in range(SEEDS):
        world = World(seed, size, 0.0)
        death_s = IDLE_S + world.rng.uniform(0, 4)
        late_ms = run_virtually(functools.partial(run_idle, world, death_s, tasks))
        assert max(late_ms) <= LATE_S * 1000, f"seed {seed}"
        assert max(world.recovered_s, default=0.0) <= WITHIN_S, f"seed {seed}"


@pytest.mark.parametrize("size", [1, 4, 16])
def test_idle_fleet_says_and_asks_little(size: int) -> None:
    world, sent = World(0, size, 0.0), Counter[str]()

    class Counted(Queue):
        async def _travel(self) -> None:
            caller = sys._getframe(1).f_code.co_name
            sent[caller] += asyncio.get_running_loop().time() > IDLE_S
            await super()._travel()

    async def play() -> None:
        stop = asyncio.Event()
        fleet = [
            asyncio.create_task(live(world, asyncio.Event(), stop, Counted)) for _ in range(size)
        ]
        await asyncio.sleep(IDLE_S + 60)
        stop.set()
        await asyncio.gather(*fleet)

    run_virtually(play)
    assert 10 * size <= sent["put_heartbeat"] <= 14 * size
    assert 10 * size <= sent["heartbeats"] <= 16 * size
    full_reads = 2 * SETTINGS.shards
    looks = 60 * SETTINGS.shards / 8 * min(1, size - 1)
    assert sent["due"] <= 1.2 * (full_reads + looks)
    assert sent["occupied"] <= 1.1 * size * 60 / SETTINGS.poll_interval_s
