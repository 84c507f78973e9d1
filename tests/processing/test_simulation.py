"""Thousands of seeded runs on a virtual clock: processors on a store in memory that loses answers,
answers late, applies late and out of order, while processors crash and pause. Wake-up messages are
lost, late, repeated and forged, and some processors take none, as those of an older version.

After each run the promise is checked: every task reaches one committed outcome, its line is printed
at most once and only if committed, nothing starts before its time by its processor's clock. A seed
replays exactly: `SIMULATION_SEED=17 python -m pytest tests/test_simulation.py`.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import pytest

from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable, TaskNotFound, TaskRunning
from chalicelib.processing.context import Context
from chalicelib.processing.held_claims import HeldClaims, memory_bytes
from chalicelib.processing.isolation import Isolated
from chalicelib.processing.processor import Processor
from chalicelib.store.contract import Heartbeat, Hint, HintPage, Refused
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables, put_rows
from chalicelib.task import FINISHED, Task, TaskState
from chalicelib.task_types import Run
from chalicelib.wakeups import address
from chalicelib.wakeups.message import Seal
from chalicelib.wakeups.sender import Sender
from tests.support.fakes import Here, Ids, LoopClock, NoWatchdog, hint_of, new_task, run_virtually

T = TypeVar("T")

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))
BATCH = 100
TASKS = 10
TROUBLE_S = 25.0
"""Faults stop after this; then everything must come to an end."""
QUIET_S = 90.0
SETTINGS = Settings(shards=2, batch_size=8, poll_interval_s=1.5, lookahead_s=2.0)
SEAL = Seal.of(SETTINGS)


class Crashed(BaseException):
    """The processor is gone: nothing of it runs any more."""


@dataclass
class World:
    """One run: its chance, its tasks, and what was seen to happen."""

    seed: int
    tables: Tables = field(default_factory=Tables)
    printed: list[tuple[str, str]] = field(default_factory=list)
    committed: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    run_again: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    dead: set[str] = field(default_factory=set)
    taken_over: int = 0
    ears: dict[str, "Ear"] = field(default_factory=dict)
    overheard: list[bytes] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    trouble: bool = True
    never: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.ids = Ids(self.seed)

    def strikes(self, fault: str, rate: float) -> bool:
        """Whether this fault happens now."""
        if not self.trouble or self.rng.random() >= rate:
            return False
        self.faults[fault] += 1
        return True

    def transmit(self, datagram: bytes, to: tuple[str, int]) -> None:
        """A wake-up message on its way to an ear."""
        self.overheard.append(datagram)
        ear = self.ears.get(address.shown(*to))
        if ear is None or self.strikes("message_lost", 0.2):
            return
        loop = asyncio.get_running_loop()
        delay_s = self.rng.uniform(0, 8) if self.strikes("message_late", 0.1) else 0.0005
        loop.call_later(delay_s, ear.hear, datagram)
        if self.strikes("message_repeated", 0.1):
            for other in self.ears.values():
                loop.call_later(self.rng.uniform(0, 8), other.hear, datagram)

    def tell(self, task: Task) -> None:
        """As the API does once it has made a task due."""
        sender = Sender(SEAL, LoopClock(), self.transmit)
        sender.send([hint_of(task, shards=SETTINGS.shards)], self.tables.heartbeats.values())


class Life:
    """One processor from start to crash: what it awaits from the store goes through here."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_dead = False
        self.paused = asyncio.Event()
        self.paused.set()

    async def turn(self) -> None:
        """The processor may be stopped here for a while, and may never go on."""
        await self.paused.wait()
        if self.is_dead:
            await self.world.never.wait()


class Ear:
    """The Listener of a life. While that pauses, what comes waits."""

    def __init__(self, world: World, life: Life) -> None:
        self.address = f"127.0.0.1:{len(world.ears) + 1}"
        self._world = world
        self._life = life
        self._take: Callable[[bytes], None] | None = None
        world.ears[self.address] = self

    def start(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def close(self) -> None:
        self._take = None

    def hear(self, datagram: bytes) -> None:
        asyncio.get_running_loop().create_task(self._hear(datagram))

    async def _hear(self, datagram: bytes) -> None:
        await self._life.turn()
        if self._take is not None:
            self._take(datagram)


class TroubledQueue(MemoryQueue):
    """The memory queue as seen through a bad network."""

    def __init__(self, world: World, life: Life) -> None:
        super().__init__(world.tables, shards=SETTINGS.shards)
        self.world = world
        self.life = life

    async def through(self, write: Callable[[], Awaitable[T]], until_s: float) -> T:
        """Send, and send again while the outcome is unknown, as the real queue does."""
        loop, world = asyncio.get_running_loop(), self.world
        while True:
            await self.life.turn()
            await asyncio.sleep(world.rng.uniform(0.0005, 0.01))
            if world.strikes("unsent", 0.05):
                await asyncio.sleep(world.rng.uniform(0, 1))
            elif world.strikes("applied_late", 0.03):
                loop.create_task(self._late(write))
                await asyncio.sleep(world.rng.uniform(0, 1))
            else:
                answer = await write()
                if not world.strikes("answer_lost", 0.05):
                    if world.strikes("answer_late", 0.02):
                        await asyncio.sleep(world.rng.uniform(0, 6))
                    await self.life.turn()
                    return answer
                await asyncio.sleep(world.rng.uniform(0, 1))
            if loop.time() >= until_s:
                raise StoreUnavailable

    async def _late(self, write: Callable[[], Awaitable[T]]) -> None:
        await asyncio.sleep(self.world.rng.uniform(0.5, 10))
        await write()

    async def claim(
        self, hint: Hint, *, claim: str, processor: str, now_ms: int, until_s: float
    ) -> Task | Refused:
        async def write() -> Task | Refused:
            return await MemoryQueue.claim(
                self, hint, claim=claim, processor=processor, now_ms=now_ms, until_s=until_s
            )

        return await self.through(write, until_s)

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
        async def write() -> Task | Refused:
            before = self.tables.tasks.get(hint.id)
            answer = await MemoryQueue.take_over(
                self,
                hint,
                lost=lost,
                claim=claim,
                processor=processor,
                now_ms=now_ms,
                until_s=until_s,
            )
            if before is not None and before.claim in lost and isinstance(answer, Task):
                self.world.taken_over += 1
                if before.processor not in self.world.dead:
                    self.world.breaches.append(f"taken over from the living: {before}")
            return answer

        return await self.through(write, until_s)

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        async def put_hint() -> None:
            if settled.due_at_ms is not None:
                self.tables.hints[settled.due_at_ms, settled.id] = settled.type

        async def write() -> bool:
            before = self.tables.tasks.get(held.id)
            is_held = before is not None and before.claim == held.claim
            if is_held and before is not None and before.state is TaskState.RUNNING:
                self.tables.tasks[held.id] = settled
                self.world.committed[held.id] += settled.state in FINISHED
                return True
            return is_held and before is not None and before.state is settled.state

        await self.through(put_hint, until_s)
        return await self.through(write, until_s)

    async def occupied(self, shards: Collection[int], **options: Any) -> Collection[int]:
        async def read() -> Collection[int]:
            return await MemoryQueue.occupied(self, shards, **options)

        return await self.through(read, asyncio.get_running_loop().time() + 5)

    async def due(self, shard: int, **options: Any) -> HintPage:
        async def read() -> HintPage:
            return await MemoryQueue.due(self, shard, **options)

        return await self.through(read, asyncio.get_running_loop().time() + 5)

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        await self.life.turn()
        await super().put_heartbeat(heartbeat)

    async def forget_hint(self, hint: Hint) -> None:
        if self.world.strikes("row_not_deleted", 0.2):
            return
        asyncio.get_running_loop().create_task(self._forget_soon(hint))

    async def _forget_soon(self, hint: Hint) -> None:
        await asyncio.sleep(self.world.rng.uniform(0, 0.3))
        await super().forget_hint(hint)


async def handler(run: Run) -> str:
    """Mostly quick, sometimes slow, stuck or wrong: a fixed mix by the task's id and attempt."""
    mood = Random(f"{run.task.id} {run.task.attempt}").random()
    if mood < 0.3:
        raise ValueError("wrong")
    await asyncio.sleep(60 if mood < 0.35 else 4.9 * mood)
    return f"done {run.task.id}"


def processor(world: World, life: Life, memory: bytearray) -> Processor:
    """A new processor with a clock that is off by at most 0.7 s. It has the memory of the dead."""
    clock = LoopClock(world.rng.randint(-700, 700))

    async def checked(run: Run) -> str:
        if clock.now_ms() < run.task.send_ts_ms:
            world.breaches.append(f"early: {run.task.id}")
        return await handler(run)

    async def isolate(run: Run) -> Isolated:
        return Here(checked, run)

    def emit(line: str) -> None:
        if life.is_dead:
            world.breaches.append(f"printed by a dead processor: {line}")
        task = world.tables.tasks[line.split()[1]]
        if task.result != line and task.id not in world.deleted:
            world.breaches.append(f"printed but not committed: {line}")
        world.printed.append((task.id, context.id))

    is_old = world.rng.random() < 0.3
    context = Context(
        id=world.ids(),
        queue=TroubledQueue(world, life),
        clock=clock,
        listener=None if is_old else Ear(world, life),
        sender=None if is_old else Sender(SEAL, clock, world.transmit),
        rng=Random(world.rng.random()),
        settings=SETTINGS,
        emit=emit,
        handlers={"any": checked},
        isolate=isolate,
        held=HeldClaims(memory, clock.monotonic_s()),
    )
    world.contexts.append(context)

    async def are_gone() -> None:
        await asyncio.sleep(world.rng.uniform(0, 0.3))

    return Processor(context, NoWatchdog(), kind="worker", are_gone=are_gone)


async def live(world: World, stop: asyncio.Event) -> None:
    """A processor that is crashed, paused and replaced while there is trouble; its replacements may
    crash in turn."""
    memory = bytearray(memory_bytes(SETTINGS.batch_size))
    while not stop.is_set():
        life = Life(world)
        living = processor(world, life, memory)
        running = asyncio.create_task(living.run(stop))
        while not stop.is_set() and not running.done():
            least_s, most_s = (0.0, 0.2) if world.strikes("hurry", 0.2) else (2, 20)
            await asyncio.wait({running}, timeout=world.rng.uniform(least_s, most_s))
            if world.strikes("pause", 0.3):
                life.paused.clear()
                await asyncio.sleep(world.rng.uniform(1, 15))
                life.paused.set()
            if world.strikes("crash", 0.3):
                life.is_dead = True
                world.dead.add(living.context.id)
                memory = left_of(world, memory)
                running.cancel()
                await asyncio.wait({running})
                break
        else:
            await running


def left_of(world: World, memory: bytearray) -> bytearray:
    """What the next one finds: another memory than the one that the dead still has."""
    left = bytearray(memory)
    if world.strikes("memory_lost", 0.1):
        left = bytearray(len(memory))
    elif world.strikes("memory_torn", 0.2):
        start = world.rng.randrange(len(memory) - 8)
        left[start : start + 8] = world.rng.randbytes(8)
    return left


async def client(world: World) -> None:
    """Creates tasks, deletes a few, and dies between its writes now and then."""
    store = MemoryStore(world.tables)
    deleting: list[asyncio.Task[None]] = []
    for _ in range(TASKS):
        now_ms = LoopClock().now_ms()
        send_ts_ms = now_ms + world.rng.randint(-5_000, 20_000)
        task = new_task(world.ids, send_ts_ms=send_ts_ms, now_ms=now_ms, type="any")
        put_rows(world.tables, task)
        await asyncio.sleep(world.rng.uniform(0, 0.5))
        if world.strikes("create_abandoned", 0.1):
            continue
        world.tables.tasks[task.id] = task
        world.acknowledged.add(task.id)
        world.tell(task)
        if world.rng.random() < 0.15:
            deleting.append(asyncio.create_task(delete(world, store, task)))
    await asyncio.gather(*deleting)


async def delete(world: World, store: MemoryStore, task: Task) -> None:
    await asyncio.sleep(world.rng.uniform(0, 20))
    try:
        store.delete(task.id, now_ms=LoopClock().now_ms(), token=world.ids())
    except (TaskRunning, TaskNotFound):
        return
    world.deleted.add(task.id)


async def operator(world: World) -> None:
    """Runs failed tasks again, each once, and dies between its writes now and then."""
    store = MemoryStore(world.tables)
    while world.trouble:
        await asyncio.sleep(world.rng.uniform(0, 2))
        failed = [
            task
            for task in world.tables.tasks.values()
            if task.state is TaskState.FAILED and not world.run_again[task.id]
        ]
        for task in failed:
            now_ms, token = LoopClock(world.rng.randint(-700, 700)).now_ms(), world.ids()
            put_rows(world.tables, task.retried(now_ms=now_ms, token=token))
            await asyncio.sleep(world.rng.uniform(0, 1))
            if world.strikes("retry_abandoned", 0.4):
                continue
            try:
                world.tell(store.retry(task.id, now_ms=now_ms, token=token))
            except TaskNotFound:
                continue
            world.run_again[task.id] += 1


async def forger(world: World) -> None:
    """Sends noise, what it has overheard, what another installation sends and, as somebody who has
    the key, hints that are wrong."""
    while world.trouble:
        await asyncio.sleep(world.rng.uniform(0, 1))
        tasks = list(world.tables.tasks.values())
        if not tasks or not world.ears:
            continue
        world.faults["message_forged"] += 1
        ear, task = world.rng.choice(list(world.ears.values())), world.rng.choice(tasks)
        due_at_ms = LoopClock().now_ms() + world.rng.randint(-20_000, 3_000)
        wrong = [Hint(due_at_ms, task.id, "any", 0), Hint(due_at_ms, world.ids(), "any", 9)]
        now_ms = LoopClock().now_ms()
        ear.hear(world.rng.randbytes(world.rng.randrange(200)))
        ear.hear(world.rng.choice(world.overheard or [b""]))
        for to in world.tables.heartbeats:
            for seal in (SEAL, Seal("another", "")):
                for message in seal.messages(wrong, to=to, now_ms=now_ms):
                    ear.hear(message)


async def run_world(world: World) -> None:
    stop = asyncio.Event()
    fleet = [asyncio.create_task(live(world, stop)) for _ in range(3)]
    working = asyncio.create_task(client(world))
    operating = asyncio.create_task(operator(world))
    forging = asyncio.create_task(forger(world))
    await asyncio.sleep(TROUBLE_S)
    await working
    world.trouble = False
    await operating
    await forging
    for _ in range(int(QUIET_S)):
        await asyncio.sleep(1)
        if all(world.tables.tasks[id].due_at_ms is None for id in world.acknowledged):
            break
    await asyncio.sleep(1)
    stop.set()
    await asyncio.gather(*fleet)


def simulate(seed: int) -> World:
    """Run one world and note every breach of the promise."""
    world = World(seed)
    run_virtually(lambda: run_world(world))
    for task_id in world.acknowledged:
        task = world.tables.tasks[task_id]
        if task_id in world.deleted:
            if task.state is not TaskState.DELETED:
                world.breaches.append(f"deleted and yet {task.state}: {task_id}")
        elif task.state not in FINISHED:
            world.breaches.append(f"lost: {task}")
        elif world.committed[task_id] != 1 + world.run_again[task_id]:
            world.breaches.append(f"committed {world.committed[task_id]} times: {task_id}")
    for task_id, count in Counter(task_id for task_id, _ in world.printed).items():
        if count > 1:
            world.breaches.append(f"printed {count} times: {task_id}")
    return world


@pytest.mark.parametrize("batch", range(SEEDS // BATCH))
def test_promise_holds_in_every_world(batch: int) -> None:
    chosen = os.environ.get("SIMULATION_SEED")
    seeds = [int(chosen)] if chosen else range(batch * BATCH, (batch + 1) * BATCH)
    for seed in seeds:
        assert simulate(seed).breaches == [], f"SIMULATION_SEED={seed}"


def test_seed_replays_exactly() -> None:
    one, two = simulate(7), simulate(7)
    assert one.tables.tasks == two.tables.tasks
    assert one.printed == two.printed
    assert one.faults == two.faults


def test_worlds_are_troubled() -> None:
    """Each fault happens, and so does each way for a task to end."""
    worlds = [simulate(seed) for seed in range(60)]
    faults = sum((world.faults for world in worlds), Counter())
    assert set(faults) == {
        "unsent", "applied_late", "answer_lost", "answer_late", "row_not_deleted",
        "crash", "pause", "create_abandoned", "retry_abandoned", "hurry", "memory_lost",
        "memory_torn", "message_lost", "message_late", "message_repeated", "message_forged",
    }  # fmt: skip
    assert sum(world.taken_over for world in worlds) > 30
    counts = sum((one.counts for world in worlds for one in world.contexts), Counter())
    assert counts["wakeups"] and counts["wakeups_dropped"]
    tasks = [task for world in worlds for task in world.tables.tasks.values()]
    assert {task.state for task in tasks} == {*FINISHED, TaskState.DELETED}
    assert any(task.leases_lost for task in tasks)
    assert any(task.given_back for task in tasks)
    again = {id for world in worlds for id in world.run_again}
    assert TaskState.COMPLETED in {task.state for task in tasks if task.id in again}
