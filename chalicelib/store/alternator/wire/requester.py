"""Requests to the store, each sent until it is answered. Views, processors and tools all use this.

What is sent, and to which node, the wire decides: it tries a request once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple, Protocol

from chalicelib.clock import Clock
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.store.alternator import outcome, requests
from chalicelib.store.alternator.outcome import Unanswered, Unsent
from chalicelib.store.alternator.requests import Item, JsonObject, Request
from chalicelib.store.alternator.wire import tls
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.contract import Pressure
from chalicelib.store.cost import count_request

PATIENCE_S = 8.0
"""A call gives up after this; API Gateway would at 29 s."""
TRY_LEAST_S = 0.05
"""With less time left than this it is not sent again: that would only hide why it failed."""

AsyncSleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""


class Wire(Protocol):
    """One try of one request: a Transport."""

    async def send(
        self,
        request: Request,
        *,
        key: str | None,
        attempt: int,
        timeout_s: float,
        rank: Rank,
        is_repeated: bool,
    ) -> JsonObject:
        """See Transport.send."""

    def pressure(self) -> Pressure:
        """See TaskStore."""

    async def close(self) -> None: ...


class Page(NamedTuple):
    """following: the request for the next page; None at the end. scanned: rows that were looked at,
    those that a filter left out among them."""

    items: Sequence[Item]
    following: Request | None
    scanned: int


class Requester:
    """Call it in the event loop of its wire.

    Sending again is safe: reads and plain writes repeat, and a conditional write that was applied
    before is refused and known by its token. Of such a write, key is the partition key. deadline_s:
    by the monotonic clock, shared by as many calls as it is given to; None: patience_s from now.

    rng spreads the retries; sleep waits between them. patience_s: the time of a call without a
    deadline. rank: of requests that name none.
    """

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        *,
        rng: Random | None = None,
        sleep: AsyncSleep = asyncio.sleep,
        patience_s: float = PATIENCE_S,
        rank: Rank = Rank.VIEW,
    ) -> None:
        self.clock = clock
        self._wire = wire
        self._rng = rng or Random()
        self._sleep = sleep
        self._patience_s = patience_s
        self._rank = rank

    def pressure(self) -> Pressure:
        """See TaskStore."""
        return self._wire.pressure()

    async def close(self) -> None:
        await self._wire.close()

    def deadline_s(self) -> float:
        """Of what begins now, by the monotonic clock; several calls can share one."""
        return self.clock.monotonic_s() + self._patience_s

    async def decide(
        self,
        request: Request,
        *,
        key: str | None = None,
        deadline_s: float | None = None,
        rank: Rank | None = None,
    ) -> JsonObject:
        """Send until answered: never again before the last try came to nothing. Raises
        ConditionFailed, StoreBusy if it was never sent, StoreUnavailable or StoreMismatch.
        """
        rank, was_sent = rank or self._rank, False
        deadline_s = self.deadline_s() if deadline_s is None else deadline_s
        send = partial(self._wire.send, request, key=key, rank=rank)
        for attempt, pause_s in enumerate(outcome.pauses_s(self._rng)):
            if (left_s := self._left_s(deadline_s)) <= 0:
                raise _unanswered(was_sent, "no time is left")
            count_request()
            try:
                return await send(attempt=attempt, timeout_s=left_s, is_repeated=was_sent)
            except StoreBusy as error:
                if not was_sent:
                    raise
                raise StoreUnavailable(str(error), **error.details) from error
            except Unanswered as error:
                was_sent = was_sent or not isinstance(error, Unsent)
                if self._left_s(deadline_s) < pause_s + TRY_LEAST_S or _is_hopeless(error, rank):
                    raise _unanswered(was_sent, str(error)) from error
            await self._sleep(pause_s)
        raise AssertionError("pauses never end")

    async def page(
        self, request: Request, *, deadline_s: float | None = None, rank: Rank | None = None
    ) -> Page:
        """One page of a Query or a Scan. It can be empty and still not be the last."""
        answer = await self.decide(request, deadline_s=deadline_s, rank=rank)
        items, start = answer["Items"], answer.get("LastEvaluatedKey")
        following = Request(request.action, request.body | {"ExclusiveStartKey": start})
        return Page(items, following if start else None, answer.get("ScannedCount", len(items)))

    async def items(self, request: Request, *, rank: Rank | None = None) -> AsyncIterator[Item]:
        """The items of all pages of a Query or a Scan."""
        following: Request | None = request
        while following is not None:
            items, following, _ = await self.page(following, rank=rank)
            for item in items:
                yield item

    async def get_items(
        self,
        table: str,
        keys: Sequence[Item],
        *,
        deadline_s: float | None = None,
        rank: Rank | None = None,
    ) -> Sequence[Item]:
        """Consistent reads of any number of distinct keys; missing ones are left out."""
        found: list[Item] = []
        for start in range(0, len(keys), 100):
            left = keys[start : start + 100]
            while left:
                request = requests.get_many(table, left)
                answer = await self.decide(request, deadline_s=deadline_s, rank=rank)
                found += answer["Responses"].get(table, [])
                left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
        return found

    async def write(
        self,
        batches: Iterable[Request],
        *,
        deadline_s: float | None = None,
        rank: Rank | None = None,
    ) -> None:
        """Send each BatchWriteItem until all of it is processed."""
        for request in batches:
            left = request
            while left.body["RequestItems"]:
                answer = await self.decide(left, deadline_s=deadline_s, rank=rank)
                unprocessed = answer.get("UnprocessedItems") or {}
                left = Request("BatchWriteItem", {"RequestItems": unprocessed})

    def _left_s(self, deadline_s: float) -> float:
        return deadline_s - self.clock.monotonic_s()


def _unanswered(was_sent: bool, cause: str) -> StoreUnavailable:
    kind = StoreUnavailable if was_sent else StoreBusy
    return kind(f"the store does not answer: {cause}", cause=cause)


def _is_hopeless(error: Unanswered, rank: Rank) -> bool:
    """Whether to tell at once that a certificate is not trusted: somebody waits for a view. A
    processor goes on instead: the next node may show another certificate, and a settlement that
    is given up costs a lease.
    """
    return rank in (Rank.VIEW, Rank.LIST) and tls.distrust(error) is not None
