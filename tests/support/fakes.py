"""What stands in for time and chance in tests."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from chalicelib.clock import SystemClock
from chalicelib.store.contract import Hint
from chalicelib.task import Task, shard_of
from chalicelib.task_types import Handler, Run

T = TypeVar("T")

NOON_MS = 1_800_000_000_000
"""When the fake clock starts: a time in 2027, at the start of an hour."""


class NativePanic(BaseException):
    """As native extensions raise them."""


class Mute(Exception):
    """It cannot tell what it is."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Nameless(type):
    """Of classes that keep their name to themselves."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise AttributeError("no name")


class Unnamed(Exception, metaclass=Nameless):
    """It has no name."""


ODD_ERRORS: list[tuple[BaseException, str]] = [
    (NativePanic("panicked"), "NativePanic: panicked"),
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt(), "KeyboardInterrupt: "),
    (GeneratorExit("closed"), "GeneratorExit: closed"),
    (asyncio.CancelledError(), "CancelledError: the handler cancelled itself"),
    (asyncio.CancelledError("so there"), "CancelledError: so there"),
    (TimeoutError("mine"), "TimeoutError: mine"),
    (StopIteration("at once"), "RuntimeError: coroutine raised StopIteration"),
    (StopAsyncIteration("too"), "StopAsyncIteration: too"),
    (RecursionError("deep"), "RecursionError: deep"),
    (MemoryError("full"), "MemoryError: full"),
    (ExceptionGroup("two", [OSError(), OSError()]), "ExceptionGroup: two (2 sub-exceptions)"),
    (
        BaseExceptionGroup("one", [KeyboardInterrupt()]),
        "BaseExceptionGroup: one (1 sub-exception)",
    ),
    (Mute(), "an error whose own text cannot be told"),
    (Unnamed("x"), "an error whose own text cannot be told"),
    (ValueError("\ud800" + "x" * 10_000_000), "ValueError: ?" + "x" * 987),
]
"""What handlers raise, and the words that are kept of it."""


class FakeClock:
    """A clock that stands still until it is told to tick."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.start_ms = now_ms
        self.elapsed_s = 0.0

    def now_ms(self) -> int:
        return self.start_ms + int(self.elapsed_s * 1000)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def tick(self, seconds: float) -> None:
        self.elapsed_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Takes no time, but passes it."""
        self.tick(seconds)


class ClockAhead(SystemClock):
    """The machine's clock, wrong by a minute."""

    def now_ms(self) -> int:
        return super().now_ms() + 60_000


class LoopClock:
    """The clock of a virtual loop; offset_ms: how far its wall clock is wrong."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        return NOON_MS + self.offset_ms + int(asyncio.get_running_loop().time() * 1000 + 1e-6)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it moves the loop's time to where the wait would have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        if not ready and timeout is None:
            raise RuntimeError("a virtual loop would wait for ever")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def stand_still(self, seconds: float) -> None:
        """As if the process had been stopped, or its loop blocked, for so long."""
        self._jumping.now_s += seconds


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop of its own in which sleeping takes no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


class NoWatchdog:
    """Remembers what it was armed with."""

    def __init__(self) -> None:
        self.kill_at_s = 0.0

    def arm(self, kill_at_s: float) -> None:
        self.kill_at_s = kill_at_s


class Here:
    """An isolated handler that runs in this process after all."""

    def __init__(self, handler: Handler, run: Run) -> None:
        self._handler = handler
        self._run = run

    async def line(self) -> str:
        return await self._handler(self._run)

    async def end(self) -> None:
        """Nothing was started."""


class Ids:
    """Ids and tokens from a seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = Random(seed)

    def __call__(self) -> str:
        digits = f"{self._rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def new_task(
    ids: Ids, *, send_ts_ms: int = NOON_MS, now_ms: int = NOON_MS, type: str = "Baz"
) -> Task:
    return Task.new(id=ids(), type=type, send_ts_ms=send_ts_ms, now_ms=now_ms, token=ids())


class NoLot(Random):
    """No lot falls on anybody."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 1


def hint_of(task: Task, due_at_ms: int | None = None, shards: int = 4) -> Hint:
    """The hint that leads to the task as it is, or to another time."""
    due_at_ms = task.due_at_ms or 0 if due_at_ms is None else due_at_ms
    return Hint(due_at_ms, task.id, task.type, shard_of(task.id, shards))


def run_of(type: str, bar_url: str = "http://127.0.0.1:1/") -> Run:
    """What a handler of this type is given."""
    return Run(task=new_task(Ids(), type=type), rng=Random(3), bar_url=bar_url)
