"""What a processor is given, and all of its parts share."""

import socket
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, Self

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.output import Lines
from chalicelib.processing.held_claims import HeldClaims
from chalicelib.processing.isolation import Isolated, IsolatedProcess
from chalicelib.processing.ledger import Record, no_record
from chalicelib.store.contract import TaskQueue
from chalicelib.task_types import HANDLERS, Handler, Run
from chalicelib.wakeups.sender import Sender


class Listening(Protocol):
    """A Listener. address: where others reach it."""

    address: str

    def start(self, take: Callable[[bytes], None]) -> None:
        """From now on `take` is called with each datagram, until close()."""

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """id: of the processor. emit: prints one line. is_held_up: whether lines do not leave; then no
    task is claimed. isolate: makes a process of its own for a handler. record: takes note of what
    happens. held: what is claimed, for whoever takes the place of this process. counts: what
    happened so far. listener: where wake-up messages arrive. sender: sends them. Both are None
    where there are none. host: the name of this machine.
    """

    id: str
    queue: TaskQueue
    clock: Clock
    rng: Random
    settings: Settings
    emit: Callable[[str], None]
    is_held_up: Callable[[], bool] = lambda: False
    handlers: Mapping[str, Handler] = field(default_factory=lambda: HANDLERS)
    isolate: Callable[[Run], Awaitable[Isolated]] = IsolatedProcess.start
    record: Record = no_record
    held: HeldClaims = field(default_factory=lambda: HeldClaims(bytearray(), 0.0))
    counts: Counter[str] = field(default_factory=Counter)
    listener: Listening | None = None
    sender: Sender | None = None
    host: str | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        queue: TaskQueue,
        clock: Clock,
        lines: Lines,
        record: Record = no_record,
        listener: Listening | None = None,
    ) -> Self:
        """For a new processor."""
        return cls(
            id=str(uuid.uuid4()),
            queue=queue,
            clock=clock,
            rng=Random(),
            settings=settings,
            emit=lines,
            is_held_up=lines.is_held_up,
            record=record,
            listener=listener,
            sender=Sender.of(settings, clock),
            host=socket.gethostname(),
        )
