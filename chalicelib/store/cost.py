"""What calls of the store cost: how many requests they took, how long they were waited for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from chalicelib.clock import Clock


@dataclass(slots=True)
class Cost:
    """requests: tries that were sent. waited_s: by the caller."""

    requests: int = 0
    waited_s: float = 0.0


_current: ContextVar[Cost | None] = ContextVar("cost", default=None)


@contextmanager
def counted() -> Iterator[Cost]:
    """Counts what is asked within, in this thread and in what it starts in event loops."""
    cost = Cost()
    token = _current.set(cost)
    try:
        yield cost
    finally:
        _current.reset(token)


@contextmanager
def waiting(clock: Clock) -> Iterator[None]:
    """Around a call that waits for the store."""
    began_s = clock.monotonic_s()
    try:
        yield
    finally:
        if (cost := _current.get()) is not None:
            cost.waited_s += clock.monotonic_s() - began_s


def count_request() -> None:
    """A request is sent."""
    if (cost := _current.get()) is not None:
        cost.requests += 1
