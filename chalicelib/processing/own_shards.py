"""Reads the hints of a processor's own shards into its agenda, a little ahead of their time."""

from collections.abc import Set
from dataclasses import dataclass

from chalicelib.processing.agenda import Agenda
from chalicelib.processing.context import Context
from chalicelib.processing.loops import see_through
from chalicelib.processing.membership import Membership
from chalicelib.processing.runner import Runner
from chalicelib.processing.store_watch import StoreWatch

FULL_SCAN_INTERVAL_S = 30.0
LOOK_BACK_MS = 5_000
"""Each poll reads from this long before now: rows may arrive late."""
AGENDA_MAX = 10_000
PAGE = 500


@dataclass(slots=True)
class Scan:
    """How far the hints of one shard have been read.

    full_at_s: when to read it from its very beginning again. since_ms, resume: where a read that
    had no room left goes on.
    """

    full_at_s: float = 0.0
    since_ms: int | None = None
    resume: str | None = None
    is_full: bool = False


class OwnShards:
    """The shards that are this processor's own change with the fleet."""

    def __init__(
        self,
        context: Context,
        membership: Membership,
        agenda: Agenda,
        runner: Runner,
        watch: StoreWatch,
    ) -> None:
        self._context = context
        self._clock = context.clock
        self._settings = context.settings
        self._membership = membership
        self._agenda = agenda
        self._runner = runner
        self._watch = watch
        self._scans: dict[int, Scan] = {}
        self._claims_before = 0

    async def poll(self) -> None:
        """Read what comes due within the lookahead, unless there is enough to do for now."""
        own = self._membership.own_shards()
        self._leave_to_others(self._scans.keys() - own)
        self._scans = {shard: self._scans.get(shard, Scan()) for shard in own}
        self._agenda.forget(self._clock.monotonic_s())
        if not self._has_enough():
            await self._read_all()

    async def _read_all(self) -> None:
        """Shards that hold nothing now are found together, unless a full read of one is due."""
        now_s = self._clock.monotonic_s()
        scans = self._scans.items()
        sure = {n for n, scan in scans if scan.resume is not None or now_s >= scan.full_at_s}
        reads = [self._read(shard, self._scans[shard]) for shard in sorted(sure)]
        await see_through([*reads, self._read_occupied(self._scans.keys() - sure)])

    async def _read_occupied(self, shards: Set[int]) -> None:
        if shards:
            found = await self._context.queue.occupied(
                shards, since_ms=self._clock.now_ms() - LOOK_BACK_MS, until_ms=self._until_ms()
            )
            await see_through(self._read(shard, self._scans[shard]) for shard in sorted(found))

    def _until_ms(self) -> int:
        return self._clock.now_ms() + self._settings.lookahead_ms

    def _has_enough(self) -> bool:
        """Whether the agenda holds more than will be claimed until the next poll.

        Not if that is for slow handlers: then there may be room for another type.
        """
        claims = self._runner.claims - self._claims_before
        self._claims_before = self._runner.claims
        is_quick = claims >= self._settings.batch_size
        backlog = self._agenda.backlog(self._clock.now_ms())
        return (is_quick or self._watch.is_slow) and backlog > claims

    def _leave_to_others(self, shards: Set[int]) -> None:
        """Their new owners have read the same hints: who claims them twice wastes a write."""
        if shards:
            self._agenda.drop(lambda hint: hint.shard in shards)

    async def _read(self, shard: int, scan: Scan) -> None:
        """Oldest first; what the agenda has no room for is read on from there at the next poll."""
        until_ms = self._until_ms()
        if scan.resume is None:
            scan.is_full = self._clock.monotonic_s() >= scan.full_at_s
            scan.since_ms = None if scan.is_full else self._clock.now_ms() - LOOK_BACK_MS
        while (room := AGENDA_MAX - len(self._agenda)) > 0:
            page = await self._context.queue.due(
                shard,
                since_ms=scan.since_ms,
                until_ms=until_ms,
                limit=min(PAGE, room),
                resume=scan.resume,
            )
            for hint in page.hints:
                self._runner.offer(hint)
            self._runner.fill()
            scan.resume = page.next
            if page.next is None:
                break
        if scan.resume is None and scan.is_full:
            spread = self._context.rng.uniform(0.9, 1.1)
            scan.full_at_s = self._clock.monotonic_s() + FULL_SCAN_INTERVAL_S * spread
