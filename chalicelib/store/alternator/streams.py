"""Rows of several queries in one order, fetched as they are read."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Item, Request
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester

T = TypeVar("T", bound=tuple[Any, ...])


class Stream(Generic[T]):
    """What a query finds, in its order. read: makes of a row what is compared."""

    def __init__(self, requester: Requester, request: Request, read: Callable[[Item], T]) -> None:
        self._requester = requester
        self._following: Request | None = request
        self._read = read
        self._page: list[T] = []

    async def head(self) -> T | None:
        """The first that was not taken; None at the end. Raises StoreUnavailable."""
        while not self._page and self._following is not None:
            page, self._following = await self._requester.page(self._following, rank=Rank.LIST)
            self._page = [self._read(row) for row in reversed(page)]
        return self._page[-1] if self._page else None

    def take(self) -> None:
        self._page.pop()


async def merged(
    streams: Sequence[Stream[T]], parallel: Parallel, *, descending: bool
) -> AsyncIterator[T]:
    """All of all streams, in order; their first pages are fetched side by side."""
    firsts = await parallel.map(Stream[T].head, streams)
    heads = {stream: head for stream, head in zip(streams, firsts, strict=True) if head is not None}
    choose = max if descending else min
    while heads:
        stream = choose(heads, key=heads.__getitem__)
        yield heads[stream]
        stream.take()
        head = await stream.head()
        if head is None:
            del heads[stream]
        else:
            heads[stream] = head
