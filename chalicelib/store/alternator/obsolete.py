"""Rows that lead to finished tasks: kept for a while, then deleted in batches."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chalicelib.clock import Clock
from chalicelib.errors import StoreUnavailable
from chalicelib.store.alternator.pruning import OPEN_KEPT_S, Pruning
from chalicelib.store.alternator.rows import Row, batches
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


Waiting = dict[tuple[str, str, str], Obsolete]


class ObsoleteRows:
    """kept: see KEPT."""

    def __init__(
        self, requester: Requester, pruning: Pruning, clock: Clock, kept: int = KEPT
    ) -> None:
        self._requester = requester
        self._pruning = pruning
        self._clock = clock
        self._kept = kept
        self._rows: Waiting = {}
        self._of_failed: Waiting = {}

    def add(self, row: Row, failed_id: str | None = None) -> None:
        """A row that is added again is not younger for it."""
        one = Obsolete(row, self._clock.monotonic_s(), failed_id)
        self._waiting(one).setdefault(row[:3], one)
        _cut(self._of_failed, KEPT)

    async def flush(self, age_s: float) -> None:
        """Delete what was added at least so long ago, and what there is no room for.

        Rows of failed tasks stay for OPEN_KEPT_S at least; who ends before leaves them to the
        sweep. Raises StoreUnavailable; what failed is kept.
        """
        now_s = self._clock.monotonic_s()
        while taken := list(itertools.islice(self._batches(now_s, age_s), PARALLEL)):
            outcomes = await asyncio.gather(*map(self._delete, taken), return_exceptions=True)
            for failure in filter(None, outcomes):
                raise failure

    def _batches(self, now_s: float, age_s: float) -> Iterator[Sequence[Obsolete]]:
        yield from _taken(self._rows, now_s - age_s, self._kept)
        yield from _taken(self._of_failed, now_s - max(age_s, OPEN_KEPT_S), KEPT)

    async def _delete(self, batch: Sequence[Obsolete]) -> None:
        """On failure the whole batch is kept: a part of it may have been applied."""
        rows = [one.row for one in batch]
        try:
            await self._requester.write(batches(rows, delete=True), rank=Rank.CLEAN)
            await self._pruning.put_again({one.failed_id for one in batch if one.failed_id})
        except (StoreUnavailable, asyncio.CancelledError):
            for one in batch:
                self._waiting(one)[one.row[:3]] = one
            _cut(self._rows, KEPT_MAX)
            raise

    def _waiting(self, one: Obsolete) -> Waiting:
        return self._rows if one.failed_id is None else self._of_failed


def _taken(waiting: Waiting, until_s: float, kept: int) -> Iterator[Sequence[Obsolete]]:
    """What was asked for until then, and what is more than may be kept, in batches."""
    while waiting:
        surplus = len(waiting) - kept
        batch = [
            one
            for place, one in enumerate(itertools.islice(waiting.values(), BATCH))
            if one.asked_s <= until_s or place < surplus
        ]
        if not batch:
            return
        for one in batch:
            del waiting[one.row[:3]]
        yield batch


def _cut(waiting: Waiting, most: int) -> None:
    """The oldest are left to the sweep."""
    while len(waiting) > most:
        del waiting[next(iter(waiting))]
