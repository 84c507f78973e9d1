"""Requests to the store for those that block: views, start-up and tools.

What is sent, and to which node, is the transport's doing, as for the processors. It lives in an
event loop of its own, in a thread that all callers share.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random
from threading import Thread
from typing import Any, NamedTuple, Protocol, Self

from chalicelib.clock import Clock, Sleep, pause
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.store.alternator import outcome, requests
from chalicelib.store.alternator.outcome import Unanswered, Unsent
from chalicelib.store.alternator.requests import Item, JsonObject, Request
from chalicelib.store.alternator.wire import tls
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.transport import VIEWS, Transport
from chalicelib.store.contract import Pressure

PATIENCE_S = 8.0
"""A call gives up after this; API Gateway would at 29 s."""


class Try(NamedTuple):
    """How a request is sent. timeout_s: how long it may take. The others: see Transport.send."""

    key: str | None
    attempt: int
    timeout_s: float
    rank: Rank
    is_repeated: bool


class Wire(Protocol):
    """One try of one request: the transport, as those see it that block."""

    def send(self, request: Request, how: Try) -> JsonObject:
        """Raises ConditionFailed, Unanswered, StoreBusy, StoreMismatch or StoreUnavailable."""

    def pressure(self) -> Pressure:
        """See TaskStore."""

    def close(self) -> None: ...


class Client:
    """Safe for many threads.

    rng spreads the retries; sleep waits between them. patience_s: a call gives up after this.
    rank: of what is sent.
    """

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        *,
        rng: Random | None = None,
        sleep: Sleep = pause,
        patience_s: float = PATIENCE_S,
        rank: Rank = Rank.VIEW,
    ) -> None:
        self._wire = wire
        self._clock = clock
        self._rng = rng or Random()
        self._sleep = sleep
        self._patience_s = patience_s
        self._rank = rank

    @classmethod
    def connect(cls, settings: Settings, clock: Clock, **options: Any) -> Self:
        """For these nodes; close() ends it. options: see the class.

        Raises InvalidSetting for an ALTERNATOR_CA_FILE that cannot be used.
        """
        wire = TransportThread(lambda: Transport.open(settings, clock, manners=VIEWS))
        return cls(wire, clock, **options)

    def ranked(self, rank: Rank) -> "Client":
        """The same, with other requests before or behind its own."""
        return Client(
            self._wire,
            self._clock,
            rng=self._rng,
            sleep=self._sleep,
            patience_s=self._patience_s,
            rank=rank,
        )

    def pressure(self) -> Pressure:
        return self._wire.pressure()

    def close(self) -> None:
        self._wire.close()

    def deadline_s(self) -> float:
        """Of what begins now, by the monotonic clock; several calls can share one."""
        return self._clock.monotonic_s() + self._patience_s

    def decide(
        self, request: Request, *, key: str | None = None, deadline_s: float | None = None
    ) -> JsonObject:
        """Send until there is an answer.

        Raises ConditionFailed, StoreBusy, StoreUnavailable or StoreMismatch.

        key: partition key of a conditional write. Sending again is safe: reads and plain writes
        repeat, and a conditional write that was applied before is refused and known by its token.
        """
        deadline_s = self.deadline_s() if deadline_s is None else deadline_s
        was_sent = False
        for attempt, pause_s in enumerate(outcome.pauses_s(self._rng)):
            timeout_s = max(0.0, deadline_s - self._clock.monotonic_s())
            try:
                return self._wire.send(request, Try(key, attempt, timeout_s, self._rank, was_sent))
            except StoreBusy as error:
                if was_sent:
                    raise StoreUnavailable(str(error), **error.details) from error
                raise
            except Unanswered as error:
                was_sent = was_sent or not isinstance(error, Unsent)
                is_late = self._clock.monotonic_s() + pause_s > deadline_s
                if is_late or tls.distrust(error):
                    text = f"the store does not answer: {error}"
                    kind = StoreUnavailable if was_sent else StoreBusy
                    raise kind(text, cause=str(error)) from error
            self._sleep(pause_s)
        raise AssertionError("pauses never end")

    def items(self, request: Request) -> Iterator[Item]:
        """Those of all pages of a Query or a Scan; the first page is fetched now."""
        return self._items(request, self.decide(request))

    def _items(self, request: Request, answer: JsonObject) -> Iterator[Item]:
        """A page can be empty and still not be the last."""
        while True:
            yield from answer["Items"]
            start = answer.get("LastEvaluatedKey")
            if not start:
                return
            body = request.body | {"ExclusiveStartKey": start}
            answer = self.decide(Request(request.action, body))

    def get_items(
        self, table: str, keys: Sequence[Item], *, deadline_s: float | None = None
    ) -> Iterator[Item]:
        """Consistent reads of any number of distinct keys."""
        for start in range(0, len(keys), 100):
            left = keys[start : start + 100]
            while left:
                answer = self.decide(requests.get_many(table, left), deadline_s=deadline_s)
                yield from answer["Responses"].get(table, [])
                left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])


class TransportThread:
    """A Wire: a transport in the event loop of a thread."""

    def __init__(self, open_transport: Callable[[], Transport]) -> None:
        """open_transport: called inside the loop; what it raises is raised here."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="transport", daemon=True)
        self._thread.start()

        async def opened() -> Transport:
            return open_transport()

        try:
            self._transport = asyncio.run_coroutine_threadsafe(opened(), self._loop).result()
        except BaseException:
            self._end()
            raise

    def send(self, request: Request, how: Try) -> JsonObject:
        sending = self._transport.send(request, **how._asdict())
        return asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def pressure(self) -> Pressure:
        async def seen() -> Pressure:
            return self._transport.pressure()

        return asyncio.run_coroutine_threadsafe(seen(), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._transport.close(), self._loop).result()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
