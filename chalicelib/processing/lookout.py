"""Looks at what other processors left overdue, and takes it if there are free places.

A shard is looked at by the three nearest processors that seem to be there: two of them may have
died just now. Its owner, as long as it lives, is one of the three; an idle one's shard is looked at
by one other, and seldom.
"""

import math

from chalicelib.attempts import LEASE_MS
from chalicelib.processing import obsolete
from chalicelib.processing.agenda import Agenda
from chalicelib.processing.context import Context
from chalicelib.processing.loops import see_through
from chalicelib.processing.membership import Membership
from chalicelib.processing.obsolete import Again
from chalicelib.processing.runner import FORGET_AFTER_S, Runner
from chalicelib.processing.store_watch import StoreWatch
from chalicelib.store import ownership
from chalicelib.store.contract import Hint
from chalicelib.task import Task, TaskState

OVERDUE_MS = 1_000
"""A hint overdue by more than this belongs to everybody, if its owner is in doubt."""
OVERDUE_OF_LIVE_MS = LEASE_MS
"""To a live owner, hints are left for so long: two that claim the same waste a write. The hint of a
lost lease is older."""
NEAREST = 3
NEAREST_OF_IDLE = 2
"""So many of the processors nearest to a shard, its owner included, look at what is overdue."""
IDLE_OWNER_INTERVAL_S = 16.0
"""A shard whose owner is idle is looked at about so often, unless something is overdue there."""
LOOK_BACK_MS = 60_000
FULL_SCAN_INTERVAL_S = 10.0
FULL_SCAN_INTERVAL_OF_LIVE_S = 30.0
PAGE = 100
PAGES = 10


class LookOut:
    """Looks each second at the shards of others."""

    def __init__(
        self,
        context: Context,
        membership: Membership,
        agenda: Agenda,
        runner: Runner,
        watch: StoreWatch,
    ) -> None:
        self._queue = context.queue
        self._clock = context.clock
        self._rng = context.rng
        self._membership = membership
        self._agenda = agenda
        self._runner = runner
        self._watch = watch
        self._full_at_s: dict[int, float] = {}
        self._idle_owner_at_s: dict[int, float] = {}
        self._postponed_ms: dict[Hint, int] = {}

    async def look(self) -> None:
        """Not with work of one's own that is ready. A store that is slow for one is slow for all:
        then nobody is helped, and whose heartbeat is late is not in doubt for it."""
        now_ms = self._clock.now_ms()
        if self._watch.is_slow or self._agenda.free <= 0 or self._agenda.first_ms() <= now_ms:
            return
        left = self._postponed_ms.items()
        self._postponed_ms = {hint: at_ms for hint, at_ms in left if at_ms > now_ms}
        fresh = await self._membership.surely_live()
        await see_through(
            self._look_at(shard, owner in fresh) for shard, owner in self._mine_to_look_at(fresh)
        )

    def _mine_to_look_at(self, fresh: tuple[str, ...]) -> list[tuple[int, str]]:
        """Shards of others, each with its owner. fresh: who is surely live."""
        me, now_s = self._membership.me, self._clock.monotonic_s()
        near = ownership.nearest(self._membership.shards, fresh, NEAREST)
        idle = self._membership.idle().intersection(fresh)

        def is_time(shard: int, owner: str) -> bool:
            if owner not in idle:
                return me in near[shard]
            is_near = me in near[shard][:NEAREST_OF_IDLE]
            return is_near and now_s >= self._idle_owner_at_s.get(shard, 0.0)

        owners = self._membership.owners().items()
        return [(shard, owner) for shard, owner in owners if owner != me and is_time(shard, owner)]

    async def _look_at(self, shard: int, has_owner: bool) -> None:
        """Mostly a little back from now; from the very beginning at first and now and then.

        has_owner: whether its owner is surely live.
        """
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        interval_s = FULL_SCAN_INTERVAL_OF_LIVE_S if has_owner else FULL_SCAN_INTERVAL_S
        is_full = now_s >= self._full_at_s.get(shard, -math.inf) + interval_s
        resume: str | None = None
        found = False
        for _ in range(PAGES):
            page = await self._queue.due(
                shard,
                since_ms=None if is_full else now_ms - LOOK_BACK_MS,
                until_ms=now_ms - (OVERDUE_OF_LIVE_MS if has_owner else OVERDUE_MS),
                limit=PAGE,
                resume=resume,
            )
            hints = [hint for hint in page.hints if self._is_new(hint)]
            await self._take(hints, awaits_leases=not has_owner)
            found = found or bool(page.hints)
            resume = page.next
            if resume is None or self._agenda.free <= 0:
                break
        if not found:
            wait_s = IDLE_OWNER_INTERVAL_S * self._rng.uniform(0.5, 1.0)
            self._idle_owner_at_s[shard] = now_s + wait_s
        if is_full:
            self._full_at_s[shard] = now_s

    def _is_new(self, hint: Hint) -> bool:
        return not self._agenda.knows(hint) and hint not in self._postponed_ms

    async def _take(self, hints: list[Hint], *, awaits_leases: bool) -> None:
        """Look at their tasks first: most may be claimed by their owners.

        awaits_leases: whether to be there when a lease ends, rather than to look again then.
        """
        if not hints:
            return
        tasks = await self._queue.get({hint.id for hint in hints})
        now_ms = self._clock.now_ms()
        for hint in hints:
            task = tasks.get(hint.id)
            if task is not None and task.is_claimable(now_ms):
                self._runner.offer(hint)
            elif awaits_leases and task is not None and task.state is TaskState.RUNNING:
                self._runner.offer(hint, task.due_at_ms)
            else:
                is_unreadable = task is None and hint.id in tasks
                await self._postpone(hint, task, is_unreadable)
        self._runner.fill()

    async def _postpone(self, hint: Hint, task: Task | None, is_unreadable: bool) -> None:
        now_ms = self._clock.now_ms()
        again: Again | None = None
        if not is_unreadable:
            again = await obsolete.looked_at(hint, task, self._queue, now_ms)
        later_ms = now_ms + round(FORGET_AFTER_S * 1000)
        self._postponed_ms[hint] = later_ms if again is None else again.at_ms
