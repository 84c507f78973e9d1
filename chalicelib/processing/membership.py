"""A processor as a member of the fleet: its heartbeat, the others', and who owns which shard."""

import asyncio
import logging
import math
from collections.abc import Sequence

from chalicelib.processing.context import Context
from chalicelib.processing.fleet import FRESH_LATE_S, Fleet
from chalicelib.processing.store_watch import StoreWatch
from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat
from chalicelib.throttle import OncePerSubject
from chalicelib.version import VERSION

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 1.0
IDLE_AFTER_S = 15.0
"""Without anything to run or ahead for longer than a lease, a processor is idle."""
IDLE_HEARTBEAT_INTERVAL_S = 5.0
DELAYS_PER_HEARTBEAT = 40
"""Heartbeats follow each other as slowly as so many delays of the store's answers: they stay a
small part of what it does."""
OFFSET_WARN_MS = 1_000
"""Another processor whose clock is ahead by more than this is told of."""


class Membership:
    """me: the processor's id. kind: worker or tick. shards: all that may hold hints. heartbeat_ms:
    when the last heartbeat that arrived was written; 0 before the first."""

    def __init__(self, context: Context, watch: StoreWatch, *, kind: str) -> None:
        self.me = context.id
        self.heartbeat_ms = 0
        self.shards: tuple[int, ...] = tuple(range(context.settings.shards))
        self._queue = context.queue
        self._clock = context.clock
        self._watch = watch
        self._kind = kind
        self._host = context.host
        self._places = context.settings.batch_size
        self._wakeup = context.listener.address if context.listener else None
        self._fleet = Fleet(self.me)
        self._looking = asyncio.Lock()
        self._sent_s = -math.inf
        self._sent_interval_s = HEARTBEAT_INTERVAL_S
        self._busy_s: float | None = None
        self._reported = OncePerSubject()

    async def step(self, *, is_busy: bool, held_back_s: int, taken: int = 0) -> None:
        """Called each second: send a heartbeat and look at the others, if it is time.

        An idle processor has less to say, and so has everybody while the store is slow. Others are
        looked at as often as the busiest of all sends, or as this one if the store is slow; and
        when one seems to have died.
        """
        now_s = self._clock.monotonic_s()
        if is_busy or self._busy_s is None:
            self._busy_s = now_s
        is_idle = now_s >= self._busy_s + IDLE_AFTER_S
        interval_s = IDLE_HEARTBEAT_INTERVAL_S if is_idle else self._busy_interval_s()
        await self._send(interval_s, held_back_s, taken)
        busiest_s = interval_s if self._watch.is_slow else self._fleet.least_interval_s()
        wait_s = min(interval_s, busiest_s) - HEARTBEAT_INTERVAL_S / 2
        if now_s < self._fleet.looked_s + wait_s and not self._fleet.seems_late(now_s):
            return
        self._compare_clocks(await self._look())
        for dead in self._fleet.long_dead():
            await self._queue.leave(dead)

    def _busy_interval_s(self) -> float:
        """In whole seconds."""
        delay_s = self._queue.pressure().delay_s
        wanted_s = max(HEARTBEAT_INTERVAL_S, math.ceil(DELAYS_PER_HEARTBEAT * delay_s))
        return float(min(IDLE_HEARTBEAT_INTERVAL_S, wanted_s))

    async def _send(self, interval_s: float, held_back_s: int, taken: int) -> None:
        """Unless the last heartbeat promised no other one yet, nor is there more to say now."""
        now_s = self._clock.monotonic_s()
        wait_s = min(interval_s, self._sent_interval_s) - HEARTBEAT_INTERVAL_S / 2
        if now_s < self._sent_s + wait_s:
            return
        heartbeat = Heartbeat(
            processor=self.me,
            kind=self._kind,
            written_ms=self._clock.now_ms(),
            interval_ms=round(interval_s * 1000),
            held_back_s=held_back_s,
            wakeup=self._wakeup,
            host=self._host,
            version=VERSION,
            places=self._places,
            taken=taken,
        )
        self._sent_s, self._sent_interval_s = now_s, interval_s
        await self._queue.put_heartbeat(heartbeat)
        self.heartbeat_ms = heartbeat.written_ms

    async def leave(self) -> None:
        await self._queue.leave(self.me)

    async def read_shards(self) -> None:
        """Those that the store's rows name: SHARDS may have been changed."""
        self.shards = tuple(await self._queue.shards())

    def live(self) -> tuple[str, ...]:
        """The processors that are not known to be dead, this one among them."""
        return self._fleet.live()

    def others(self) -> Sequence[Heartbeat]:
        """The heartbeats of the others that are not known to be dead."""
        return self._fleet.others()

    def owners(self) -> dict[int, str]:
        """The processor that owns each shard, by what is known of the fleet now."""
        nearest = ownership.nearest(self.shards, self.live())
        return {shard: nearest[shard][0] for shard in self.shards}

    def owns(self, shard: int) -> bool:
        return self.owners().get(shard) == self.me

    def own_shards(self) -> list[int]:
        return [shard for shard, owner in self.owners().items() if owner == self.me]

    def idle(self) -> set[str]:
        """Those whose heartbeats follow each other as slowly as an idle one's."""
        return self._fleet.slow(IDLE_HEARTBEAT_INTERVAL_S)

    async def surely_live(self) -> tuple[str, ...]:
        """Those whose heartbeat is not late. If one seems late, look: it may have come since."""
        late_s = FRESH_LATE_S + 2 * self._queue.pressure().latency_s
        if self._fleet.seems_late(self._clock.monotonic_s(), late_s):
            await self._look()
        return self._fleet.live(late_s)

    async def _look(self) -> list[Heartbeat]:
        """Those that have changed since the last look."""
        async with self._looking:
            self._fleet.look(self._clock.monotonic_s())
            rows = await self._queue.heartbeats()
            now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
            return self._fleet.see(rows, now_s=now_s, now_ms=now_ms)

    def _compare_clocks(self, others: list[Heartbeat]) -> None:
        """Who disagrees about the time, though both go by the store's clock, is told of once."""
        for other in others:
            ahead_ms = other.written_ms - self._clock.now_ms()
            if ahead_ms > OFFSET_WARN_MS and self._reported.admits(other.processor):
                text = "the clock of %s is %d ms ahead of this one"
                extra = {"action": "clock_ahead"}
                log.warning(text, other.processor, ahead_ms, extra=extra)
