"""What queries of several partitions find, in one order, fetched as it is read."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.rows import at_of
from chalicelib.store.alternator.wire.requester import Page

Fetch = Callable[[Request], Awaitable[Page]]
"""Raises StoreUnavailable."""


ROW = "#"
"""Stands behind the time in the key of a task's row."""


class Entry(NamedTuple):
    """The row of a task; or, if some were scanned, how far a filter has passed over so many."""

    at: str
    slot: str
    scanned: int = 0


class Stream:
    """What a query of one partition finds.

    slot: the partition. opens: the streams that a row names; none for the row of a task. key: as
    what a row counts in the order. ats: what can be taken, the first one last. passed: behind them,
    how far a filter has passed over how many.
    """

    def __init__(
        self,
        request: Request,
        slot: str,
        opens: "Callable[[str], Sequence[Stream]]",
        key: Callable[[str], str] | None = None,
    ) -> None:
        self.slot = slot
        self.opens = opens
        self.ats: list[str] = []
        self.passed: tuple[str, int] | None = None
        self._key = key
        self._following: Request | None = request

    async def fill(self, fetch: Fetch) -> bool:
        """Fetch until there is something to take. False: there is nothing any more."""
        while not self.ats and not self.passed and self._following is not None:
            items, following, scanned = await fetch(self._following)
            ats = [at_of(item) for item in reversed(items)]
            self.ats = ats if self._key is None else [*map(self._key, ats)]
            if following is not None and scanned > len(items):
                self.passed = at_of(following.body["ExclusiveStartKey"]), scanned
            self._following = following
        return bool(self.ats or self.passed)

    @property
    def head(self) -> str | None:
        """What can be taken next; None if it must be fetched."""
        if self.ats:
            return self.ats[-1]
        return self.passed[0] if self.passed else None

    def take_passed(self) -> Entry | None:
        """None if that is at no row of a task."""
        assert self.passed is not None
        (at, scanned), self.passed = self.passed, None
        return Entry(at, self.slot, scanned) if at[15] == ROW else None


class Merge:
    """Streams in one order. Those that a row names join when that row is met."""

    def __init__(self, fetch: Fetch, parallel: Parallel, *, descending: bool) -> None:
        self._fetch = fetch
        self._parallel = parallel
        self._first = max if descending else min
        self._streams: list[Stream] = []

    async def join(self, streams: Sequence[Stream]) -> None:
        """Fetch their first pages side by side."""
        filled = await self._parallel.map(lambda stream: stream.fill(self._fetch), streams)
        self._streams += [stream for stream, has in zip(streams, filled, strict=True) if has]

    async def take(self, most: int) -> Sequence[Entry]:
        """The next entries; fewer than `most` only at the end. A task can have two rows."""
        taken: list[Entry] = []
        while len(taken) < most:
            await self._fill()
            heads = {stream: stream.head or "" for stream in self._streams}
            if not heads:
                break
            stream = self._first(heads, key=heads.__getitem__)
            if not stream.ats:
                taken += filter(None, [stream.take_passed()])
                continue
            others = [head for one, head in heads.items() if one is not stream]
            bound = self._first(others) if others else stream.ats[0]
            if name := self._run(stream, bound, most, taken):
                await self.join(stream.opens(name))
        return taken

    def _run(self, stream: Stream, bound: str, most: int, taken: list[Entry]) -> str | None:
        """Take what comes before the other streams. Ends with a row that names something."""
        ats, slot, first = stream.ats, stream.slot, self._first
        while ats and len(taken) < most and first(ats[-1], bound) == ats[-1]:
            at = ats.pop()
            if at[15] != ROW:
                return at
            taken.append(Entry(at, slot))
        return None

    async def _fill(self) -> None:
        for stream in [one for one in self._streams if one.head is None]:
            if not await stream.fill(self._fetch):
                self._streams.remove(stream)
