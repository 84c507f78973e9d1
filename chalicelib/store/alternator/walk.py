"""A walk along the timeline: the rows of some kinds, from all levels, in one order."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Item, Request
from chalicelib.store.alternator.rows import FIRST, LAST
from chalicelib.store.alternator.streams import Entry, Merge, Stream
from chalicelib.store.alternator.timeline import DEEPEST, END, START, TimeBucket, Timeline, named
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Page, Requester

NAMES = 10
"""A page has room for so many names beside the rows that are wanted."""
PAGE_MOST, PAGE_GROWTH = 1_000, 2
SCANNED_MOST, SCANNED_GROWTH = 5_000, 4
"""The same where a filter leaves out rows of other types: of a rare one few are found in many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Which rows to read, in which order. low, high: bounds of keys. types: None for all. wanted:
    about so many rows."""

    low: str = FIRST
    high: str = LAST
    descending: bool = False
    types: frozenset[str] | None = None
    wanted: int = PAGE_MOST

    @property
    def is_empty(self) -> bool:
        """Whether nothing can lie in it. The store refuses such bounds."""
        return self.low > self.high

    @property
    def begin(self) -> str | None:
        """Where the walk begins; None at the very beginning."""
        begin, open_end = (self.high, LAST) if self.descending else (self.low, FIRST)
        return None if begin == open_end else begin


class Walk:
    """Call begin() once, then take() until it gives no more."""

    def __init__(
        self,
        requester: Requester,
        parallel: Parallel,
        kinds: Sequence[Timeline],
        span: Span,
        *,
        deadline_s: float | None = None,
        rank: Rank | None = None,
    ) -> None:
        self._requester = requester
        self._kinds = kinds
        self._span = span
        self._deadline_s = deadline_s
        self._rank = rank
        self._merge = Merge(self._fetch, parallel, descending=span.descending)
        self._opened: set[TimeBucket] = set()
        self._filled: set[str] = set()

    async def begin(self, others: Sequence[Stream] = ()) -> None:
        """others: to be walked along with these kinds."""
        if self._span.is_empty:
            return
        roots = [self._stream(kind, 0, kind.kind) for kind in self._kinds]
        _, covering = await asyncio.gather(
            self._merge.join([*roots, *others]), self._covering_the_begin()
        )
        await self._merge.join([s for bucket in covering for s in self._open(bucket)])

    async def take(self, most: int) -> Sequence[Entry]:
        """The next rows; fewer than `most` only at the end. Raises StoreUnavailable."""
        return await self._merge.take(most)

    def drained(self) -> Sequence[TimeBucket]:
        """Buckets that were opened so far and hold nothing from `low` to `high`."""
        return [bucket for bucket in self._opened if not self._filled.intersection(bucket.slots)]

    def query(self, slot: str, low: str) -> Request:
        """Of what a partition holds within the span, from `low` on."""
        span = self._span
        limit = (span.wanted + NAMES) * (1 if span.types is None else SCANNED_GROWTH)
        return requests.query(
            self._kinds[0].table,
            "slot",
            slot,
            between=(low, span.high),
            limit=min(limit, SCANNED_MOST),
            descending=span.descending,
            types=span.types,
            only_at=True,
        )

    async def _covering_the_begin(self) -> Sequence[TimeBucket]:
        """Buckets that have begun before the walk does: it would not meet the rows that name them
        before theirs."""
        if (begin := self._span.begin) is None:
            return []
        time_ms = rows.time_of(begin) - (1 if self._span.descending else 0)
        buckets = [bucket for kind in self._kinds for bucket in kind.path(DEEPEST, time_ms)]
        name = 1 if self._span.descending else 0
        keys: list[Item] = [bucket.names[name].key for bucket in buckets]
        found = await self._requester.get_items(
            self._kinds[0].table, keys, deadline_s=self._deadline_s, rank=self._rank
        )
        there = {(item["slot"]["S"], item["at"]["S"]) for item in found}
        return [bucket for bucket in buckets if bucket.names[name][1:3] in there]

    def _stream(self, kind: Timeline, level: int, slot: str) -> Stream:
        request = self.query(slot, self._span.low)
        return Stream(request, slot, partial(self._opens, kind, level))

    def _opens(self, kind: Timeline, level: int, at: str) -> Sequence[Stream]:
        if at[15] != (END if self._span.descending else START):
            return ()
        return self._open(TimeBucket(kind, level + 1, named(at, level + 1)))

    def _open(self, bucket: TimeBucket) -> Sequence[Stream]:
        if bucket in self._opened:
            return ()
        self._opened.add(bucket)
        return [self._stream(bucket.kind, bucket.level, slot) for slot in bucket.slots]

    async def _fetch(self, request: Request) -> Page:
        page = await self._requester.page(request, deadline_s=self._deadline_s, rank=self._rank)
        if page.items:
            self._filled.add(request.body["ExpressionAttributeValues"][":key"]["S"])
        if page.following is None:
            return page
        most, growth = PAGE_MOST, PAGE_GROWTH
        if self._span.types is not None:
            most, growth = SCANNED_MOST, SCANNED_GROWTH
        body = page.following.body
        limit = max(body["Limit"], min(most, body["Limit"] * growth))
        return page._replace(following=Request("Query", body | {"Limit": limit}))
