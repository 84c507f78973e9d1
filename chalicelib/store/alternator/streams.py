"""What queries of several partitions find, in one order, fetched as it is read."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.rows import at_of
from chalicelib.store.alternator.wire.requester import Page

Fetch = Callable[[Request], Awaitable[Page]]
"""Raises StoreUnavailable."""


class Entry(NamedTuple):
    """The row of a task; or, if some were scanned, how far a filter has passed over so many."""

    at: str
    slot: str
    scanned: int = 0


class Stream:
    """What a query of one partition finds.

    slot: the partition. opens: the streams that a row names; none for the row of a task. key: as
    what a row counts in the order.
    """

    def __init__(
        self,
        request: Request,
        slot: str,
        opens: "Callable[[str], Sequence[Stream]]",
        key: Callable[[str], str] = str,
    ) -> None:
        self.opens = opens
        self._slot = slot
        self._key = key
        self._following: Request | None = request
        self._entries: list[Entry] = []

    async def fill(self, fetch: Fetch) -> bool:
        """Fetch until there is an entry to take. False: there is none any more."""
        while not self._entries and self._following is not None:
            items, following, scanned = await fetch(self._following)
            entries = [Entry(self._key(at_of(item)), self._slot) for item in items]
            if following is not None and scanned > len(items):
                passed = self._key(at_of(following.body["ExclusiveStartKey"]))
                entries.append(Entry(passed, self._slot, scanned))
            self._entries = entries[::-1]
            self._following = following
        return bool(self._entries)

    @property
    def head(self) -> str | None:
        """What can be taken next; None if it must be fetched."""
        return self._entries[-1].at if self._entries else None

    def take(self) -> Entry:
        return self._entries.pop()


class Merge:
    """Streams in one order. Those that a row names join when that row is met."""

    def __init__(self, fetch: Fetch, parallel: Parallel, *, descending: bool) -> None:
        self._fetch = fetch
        self._parallel = parallel
        self._choose = max if descending else min
        self._streams: list[Stream] = []

    async def join(self, streams: Sequence[Stream]) -> int:
        """Fetch their first pages side by side. Returns how many have entries."""
        filled = await self._parallel.map(lambda stream: stream.fill(self._fetch), streams)
        self._streams += [stream for stream, has in zip(streams, filled, strict=True) if has]
        return sum(filled)

    async def take(self, most: int) -> Sequence[Entry]:
        """The next entries; fewer than `most` only at the end. A task can have two rows."""
        taken: list[Entry] = []
        while len(taken) < most and (stream := await self._first()):
            entry = stream.take()
            if entry.at[15] == "#":
                taken.append(entry)
            elif not entry.scanned:
                await self.join(stream.opens(entry.at))
        return taken

    async def _first(self) -> Stream | None:
        for stream in [one for one in self._streams if one.head is None]:
            if not await stream.fill(self._fetch):
                self._streams.remove(stream)
        return self._choose(self._streams, key=_head) if self._streams else None


def _head(stream: Stream) -> str:
    assert stream.head is not None
    return stream.head
