"""A processor that is told of tasks by wake-up messages."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from chalicelib.config import Settings
from chalicelib.processing.context import Context
from chalicelib.processing.inbox import TAKEN_MAX
from chalicelib.processing.isolation import Isolated
from chalicelib.processing.processor import Processor
from chalicelib.store.contract import Hint, Refused
from chalicelib.store.memory import MemoryQueue, MemoryStore, Tables
from chalicelib.task import Task, TaskState
from chalicelib.task_types import Run
from chalicelib.wakeups.message import WINDOW_MS, Seal
from chalicelib.wakeups.sender import Sender
from tests.support.fakes import (
    NOON_MS,
    Here,
    Ids,
    LoopClock,
    NoWatchdog,
    hint_of,
    new_task,
    run_virtually,
)

SETTINGS = Settings(shards=4)
SEAL = Seal.of(SETTINGS)


class Ear:
    """A Listener without a socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.take: Callable[[bytes], None] | None = None

    def start(self, take: Callable[[bytes], None]) -> None:
        self.take = take

    def close(self) -> None:
        self.take = None


class Queue(MemoryQueue):
    """Counts claims by task."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables, shards=SETTINGS.shards)
        self.claims: Counter[str] = Counter()

    async def claim(self, hint: Hint, **options: Any) -> Task | Refused:
        self.claims[hint.id] += 1
        return await super().claim(hint, **options)


@dataclass
class Place:
    """A store in memory, processors with ears, and a network without loss."""

    tables: Tables = field(default_factory=Tables)
    ids: Ids = field(default_factory=Ids)
    ears: dict[str, Ear] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    handler_s: float = 0.0

    def __post_init__(self) -> None:
        self.queue = Queue(self.tables)
        self.store = MemoryStore(self.tables)

    def processor(self, name: str = "p", *, has_ear: bool = True) -> Processor:
        number = len(self.ears) + 1
        ear = Ear(f"127.0.0.1:{number}") if has_ear else None
        if ear is not None:
            self.ears[name] = ear
        clock = LoopClock()
        context = Context(
            id=name,
            queue=self.queue,
            clock=clock,
            rng=Random(name),
            settings=SETTINGS,
            emit=lambda line: None,
            handlers={"Baz": self._handler},
            isolate=self._isolate,
            counts=self.counts,
            listener=ear,
            sender=Sender(SEAL, clock, self.transmit),
        )
        return Processor(context, NoWatchdog(), kind="worker")

    async def _handler(self, run: Run) -> str:
        await asyncio.sleep(self.handler_s)
        return "done"

    async def _isolate(self, run: Run) -> Isolated:
        return Here(self._handler, run)

    def transmit(self, datagram: bytes, to: tuple[str, int]) -> None:
        for ear in self.ears.values():
            if ear.address.endswith(f":{to[1]}") and ear.take is not None:
                ear.take(datagram)

    def create(self, *, due_in_s: float = 0.0, type: str = "Baz") -> Task:
        now_ms = LoopClock().now_ms()
        send_ts_ms = now_ms + round(due_in_s * 1000)
        task = new_task(self.ids, send_ts_ms=send_ts_ms, now_ms=now_ms, type=type)
        return self.store.create(task)

    def tell(self, hints: Sequence[Hint], to: str = "p", age_ms: int = 0) -> list[bytes]:
        now_ms = LoopClock().now_ms() - age_ms
        messages = list(SEAL.messages(hints, to=to, now_ms=now_ms))
        for message in messages:
            self.hear(message, to)
        return messages

    def hear(self, message: bytes, to: str = "p") -> None:
        take = self.ears[to].take
        assert take is not None
        take(message)

    def lateness_ms(self, task: Task) -> int | None:
        return self.tables.tasks[task.id].lateness_ms


def play(place: Place, script: Callable[[], object], *processors: Processor) -> None:
    """Processors run for 5 s before and 10 s after something happens between two polls."""

    async def both() -> None:
        stop = asyncio.Event()
        running = [asyncio.create_task(one.run(stop)) for one in processors]
        await asyncio.sleep(5.123)
        if asyncio.iscoroutine(done := script()):
            await done
        await asyncio.sleep(10)
        stop.set()
        await asyncio.gather(*running)

    run_virtually(both)


@pytest.mark.parametrize("due_in_s", [0.0, 0.1, 0.3])
def test_task_that_is_told_of_starts_at_its_instant(due_in_s: float) -> None:
    place, tasks = Place(), list[Task]()

    def script() -> None:
        tasks.append(place.create(due_in_s=due_in_s))
        place.tell([hint_of(tasks[0])])

    play(place, script, place.processor())
    assert place.lateness_ms(tasks[0]) == 0
    assert place.queue.claims == {tasks[0].id: 1}
    assert place.counts["wakeups"] == 1
    assert place.tables.hints == {}


def test_task_that_is_not_told_of_starts_by_the_next_poll() -> None:
    place, tasks = Place(), list[Task]()
    play(place, lambda: tasks.append(place.create()), place.processor())
    assert 0 < (place.lateness_ms(tasks[0]) or 0) <= 800


def test_repeated_late_and_misdirected_messages_make_no_claim() -> None:
    place, tasks = Place(), list[Task]()
    one, other = place.processor("p"), place.processor("q")

    async def script() -> None:
        tasks.append(place.create())
        messages = place.tell([hint_of(tasks[0])])
        for number in range(2_000):
            await asyncio.sleep(0.01)
            place.hear(messages[0], "pq"[number % 2])
        later = [place.create() for _ in range(10)]
        tasks.extend(later)
        place.tell([hint_of(task) for task in later], age_ms=WINDOW_MS + 1)

    play(place, script, one, other)
    assert place.queue.claims == {task.id: 1 for task in tasks}
    assert place.counts["wakeups"] == 1
    assert place.counts["wakeups_dropped"] == 1_000 + (2_000 - WINDOW_MS // 10) // 2 + 2


def test_messages_that_tell_nonsense_cost_refused_claims_only() -> None:
    """Who has the key can lie; the store decides."""
    place, tasks = Place(), list[Task]()

    async def script() -> None:
        now_ms = LoopClock().now_ms()
        soon, later = place.create(due_in_s=1.0), place.create(due_in_s=5.0)
        tasks.extend([soon, later])
        place.tell([Hint(now_ms, soon.id, "Baz", 0), Hint(now_ms - 10_000, later.id, "Baz", 0)])
        place.tell([Hint(now_ms, place.ids(), "Baz", 0), Hint(now_ms, soon.id, "None", 0)])
        place.tell([Hint(now_ms + 10**9, place.ids(), "Baz", 0), Hint(-(10**9), soon.id, "Baz", 0)])
        place.tell([Hint(10**30, "", "Baz", 0), Hint(0, "\0", "", 0)])

    play(place, script, place.processor())
    for task in tasks:
        assert place.tables.tasks[task.id].state is TaskState.COMPLETED
        assert place.tables.tasks[task.id].attempt == 1
        assert 0 <= (place.lateness_ms(task) or 0) <= 800


def test_what_is_taken_of_a_shard_in_a_second_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    place, tasks = Place(), list[Task]()

    def script() -> None:
        tasks.extend(place.create(due_in_s=1.0) for _ in range(2_000))
        place.tell([hint_of(task) for task in tasks])

    play(place, script, place.processor())
    assert place.counts["wakeups"] == TAKEN_MAX * SETTINGS.shards
    assert place.queue.claims == {task.id: 1 for task in tasks}, "polls have found the others"
    (line,) = [r for r in caplog.records if getattr(r, "action", "") == "wakeups_dropped"]
    assert "1 excess" in line.message, "told of when it began"


def test_released_task_is_taken_up_at_its_instant() -> None:
    """The answer to its first claim comes too late to start it."""
    place, tasks, released_s = Place(), list[Task](), list[float]()
    claim, settle = place.queue.claim, place.queue.settle

    async def slow(hint: Hint, **options: Any) -> Task | Refused:
        answer = await claim(hint, **options)
        if place.queue.claims[hint.id] == 1:
            await asyncio.sleep(3.1)
        return answer

    async def noted(held: Task, settled: Task, **options: Any) -> bool:
        if settled.state is TaskState.SCHEDULED:
            released_s.append(asyncio.get_running_loop().time())
        return await settle(held, settled, **options)

    place.queue.claim, place.queue.settle = slow, noted  # type: ignore[method-assign]

    def script() -> None:
        tasks.append(place.create())
        place.tell([hint_of(tasks[0])])

    play(place, script, place.processor())
    done = place.tables.tasks[tasks[0].id]
    assert (done.given_back, len(released_s)) == (1, 1)
    assert (done.started_ts_ms or 0) - NOON_MS - released_s[0] * 1000 < 10


def test_what_a_draining_processor_releases_is_told_to_another() -> None:
    """Its claim is answered when it has been told to stop."""
    place, tasks = Place(), list[Task]()
    stopping, other = place.processor("p"), place.processor("q")

    async def both() -> None:
        stops = {name: asyncio.Event() for name in "pq"}
        running = [
            asyncio.create_task(stopping.run(stops["p"])),
            asyncio.create_task(other.run(stops["q"])),
        ]
        await asyncio.sleep(5.123)
        claim = place.queue.claim

        async def slow(hint: Hint, **options: Any) -> Task | Refused:
            answer = await claim(hint, **options)
            if options["processor"] == "p":
                stops["p"].set()
                await asyncio.sleep(0.05)
            return answer

        place.queue.claim = slow  # type: ignore[method-assign]
        tasks.append(place.create())
        place.tell([hint_of(tasks[0])])
        await asyncio.sleep(0.1)
        settled = place.tables.tasks[tasks[0].id]
        assert settled.given_back == 1
        assert settled.processor == "q", "before any poll"
        stops["q"].set()
        await asyncio.gather(*running)

    run_virtually(both)
    assert place.tables.tasks[tasks[0].id].state is TaskState.COMPLETED


def test_heartbeats_tell_the_address_and_an_old_processor_has_none() -> None:
    place, told = Place(), dict[str, str | None]()

    def script() -> None:
        told.update({row.processor: row.wakeup for row in place.tables.heartbeats.values()})

    play(place, script, place.processor("p"), place.processor("q", has_ear=False))
    assert told == {"p": "127.0.0.1:1", "q": None}
