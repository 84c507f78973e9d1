"""Rows that lead to finished tasks: kept for a while, then deleted in batches."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chalicelib.clock import Clock
from chalicelib.errors import StoreUnavailable
from chalicelib.store.alternator import time_index
from chalicelib.store.alternator.sweep import Sweeper
from chalicelib.store.alternator.time_index import Row
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester

BATCH = 25
PARALLEL = 4
KEPT = 30_000
"""Deletions that may wait for their time; of more, the oldest are sent."""
KEPT_MAX = 50_000
"""Deletions waiting at most; beyond, the oldest are left to the sweep and the full scans."""


class Obsolete(NamedTuple):
    """A row to delete. asked_s: since when, by the monotonic clock. failed_id: the failed task that
    it led to, which may be run again meanwhile."""

    row: Row
    asked_s: float
    failed_id: str | None = None


class ObsoleteRows:
    """kept: see KEPT."""

    def __init__(
        self, requester: Requester, sweeper: Sweeper, clock: Clock, kept: int = KEPT
    ) -> None:
        self._requester = requester
        self._sweeper = sweeper
        self._clock = clock
        self._kept = kept
        self._obsolete: dict[tuple[str, str, str], Obsolete] = {}

    def add(self, row: Row, failed_id: str | None = None) -> None:
        """A row that is added again is not younger for it."""
        one = Obsolete(row, self._clock.monotonic_s(), failed_id)
        self._obsolete.setdefault(row[:3], one)

    async def flush(self, age_s: float) -> None:
        """Delete what was added at least so long ago, and what there is no room for.

        Raises StoreUnavailable; what failed is kept.
        """
        until_s = self._clock.monotonic_s() - age_s
        while batches := list(itertools.islice(self._take_batches(until_s), PARALLEL)):
            outcomes = await asyncio.gather(*map(self._delete, batches), return_exceptions=True)
            for failure in filter(None, outcomes):
                raise failure

    def _take_batches(self, until_s: float) -> Iterator[Sequence[Obsolete]]:
        while self._obsolete:
            surplus = len(self._obsolete) - self._kept
            batch = [
                one
                for place, one in enumerate(itertools.islice(self._obsolete.values(), BATCH))
                if one.asked_s <= until_s or place < surplus
            ]
            if not batch:
                return
            for one in batch:
                del self._obsolete[one.row[:3]]
            yield batch

    async def _delete(self, batch: Sequence[Obsolete]) -> None:
        """On failure the whole batch is kept: a part of it may have been applied."""
        rows = [one.row for one in batch]
        try:
            await self._requester.write(time_index.batches(rows, delete=True), rank=Rank.CLEAN)
            await self._sweeper.put_again({one.failed_id for one in batch if one.failed_id})
        except (StoreUnavailable, asyncio.CancelledError):
            self._obsolete |= {one.row[:3]: one for one in batch}
            while len(self._obsolete) > KEPT_MAX:
                del self._obsolete[next(iter(self._obsolete))]
            raise
