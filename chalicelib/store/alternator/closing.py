"""Buckets of the timeline that are over and drained leave it."""

from collections.abc import Sequence

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.timeline import TimeBucket
from chalicelib.store.alternator.wire.requester import Requester


class Closing:
    """All methods raise StoreUnavailable."""

    def __init__(self, requester: Requester, clock: Clock) -> None:
        self._requester = requester
        self._clock = clock

    async def close(self, drained: Sequence[TimeBucket]) -> None:
        """Take those that may be closed out of the timeline.

        They may have been seen a while ago, so they are looked at before; and once more behind, to
        be named again if a row came meanwhile. (A producer that writes into a bucket which is over
        names it again behind its row.) Who dies before that leaves it to the slow sweep.
        """
        now_ms = self._clock.now_ms()
        for bucket in drained:
            if not bucket.may_close(now_ms) or await self._has_rows(bucket):
                continue
            await self._requester.write(rows.batches(bucket.names, delete=True))
            if await self._has_rows(bucket):
                await self._requester.write(rows.batches(bucket.names))

    async def _has_rows(self, bucket: TimeBucket) -> bool:
        for slot in bucket.slots:
            query = requests.query(bucket.kind.table, "slot", slot, limit=1)
            async for _ in self._requester.items(query):
                return True
        return False
