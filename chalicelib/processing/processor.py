"""The processor: finds due tasks, claims each at its instant, and runs many side by side.

Both the tick and each process of the worker are one. It polls the shards that are its own by
rendezvous hashing a little ahead of time into a heap, looks at what others left overdue, beats
its heart, cleans up and sweeps.
"""

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

from chalicelib.attempts import KILL_AFTER_S, LEASE_MS
from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable, UnreadableTask
from chalicelib.processing import fleet
from chalicelib.processing.agenda import Agenda
from chalicelib.processing.attempt import Again, Attempts
from chalicelib.processing.store_watch import StoreWatch
from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat, Hint, TaskQueue
from chalicelib.task import TaskState, shard_of
from chalicelib.throttle import Throttle

log = logging.getLogger(__name__)

BEAT_INTERVAL_S = 1.0
IDLE_AFTER_S = 15.0
"""Without anything to run or ahead for longer than a lease, a processor is idle."""
IDLE_BEAT_INTERVAL_S = 5.0
FLUSH_INTERVAL_S = 0.5
ARM_INTERVAL_S = 0.25
FOREIGN_INTERVAL_S = 1.0
FOREIGN_OVERDUE_MS = 1_000
"""A hint overdue by more than this belongs to everybody, if its owner is in doubt."""
FOREIGN_CALM_S = 16.0
"""A shard whose owner is idle is looked at about so often, unless something is overdue there."""
FOREIGN_PATIENCE_MS = LEASE_MS
"""To an owner that beats, hints are left for so long: two that claim the same waste a write. The
hint of a lease that was lost is older."""
FOREIGN_NEAREST = 3
"""So many of the processors nearest to a shard look at what is overdue there."""
CALM_NEAREST = 2
"""The same where the owner is idle."""
FOREIGN_LOOK_BACK_MS = 60_000
FOREIGN_FULL_SCAN_INTERVAL_S = 10.0
FOREIGN_PAGE = 100
FOREIGN_PAGES = 10
SHARDS_INTERVAL_S = 30.0
FULL_SCAN_INTERVAL_S = 30.0
LOOK_BACK_MS = 5_000
"""Each poll reads from this long before now: rows may arrive late."""
AGENDA_MAX = 10_000
PAGE = 500
HELD_BACK_S = 0.05
"""What has to wait for the store, or for the output, is looked at again after this."""
LAST_WORDS_S = 0.5
CLEAN_UP_S = 2.0
"""A store that does not answer must not keep a processor from ending: it has so long for the last
words; and for deletions that still wait, if no task took the time of the drain."""
CLEAN_LATER_S = 5.0
"""While more is ready than can run, deletions may wait for so long."""
CLEAN_SLOW_S = 20.0
"""While the store is slow, all of them are made together, this long after the last time."""
LINGER_S = 30.0
"""A hint that was dealt with is not taken up again for this long: its deletion is under way."""
SLOW_FOR_S = 10.0
"""A store that was slow within this time may well be slow again."""
BEHIND_MS = 500
"""Ready for longer than this and not started, while all places are taken: that is a backlog."""
LEAVE_ALONE_S = 30.0
SWEEP_INTERVAL_MS = 60_000
SWEEP_SEGMENTS = 60
"""One a minute: every task is seen once an hour."""
OFFSET_WARN_MS = 1_000
"""Another processor whose clock is ahead by more than this is told of."""


class Watchdog(Protocol):
    """Ends this process from outside."""

    def arm(self, kill_at_s: float) -> None:
        """Unless armed anew before it, end the process at this time of the monotonic clock."""


@dataclass(slots=True)
class Scan:
    """How far the hints of one own shard have been read.

    full_at_s: when to read it from its very beginning again. since_ms, resume: where a read that
    had no room left goes on.
    """

    full_at_s: float = 0.0
    since_ms: int | None = None
    resume: str | None = None
    reading_full: bool = False


@dataclass(frozen=True, slots=True)
class Grace:
    """linger_s: how long to go on claiming after leaving the fleet, so that others can take over.

    drain_s: how long running tasks may take after that.
    """

    linger_s: float = 0.0
    drain_s: float = 6.0


class LoopEnded(Exception):
    """A loop of a processor ended before it was told to stop."""


class Processor:
    """Runs from `run` until `stop` is set; then leaves the fleet and drains.

    kind: worker or tick. grace: asked when it is told to stop.
    """

    def __init__(
        self,
        attempts: Attempts,
        settings: Settings,
        watchdog: Watchdog,
        *,
        kind: str,
        grace: Callable[[], Grace] = Grace,
        sweeps_always: bool = False,
    ) -> None:
        self.id = attempts.processor
        self._attempts = attempts
        self._queue: TaskQueue = attempts.queue
        self._clock: Clock = attempts.clock
        self._rng: Random = attempts.rng
        self._settings = settings
        self._watchdog = watchdog
        self._kind = kind
        self._grace = grace
        self._sweeps_always = sweeps_always
        self._fleet = fleet.Fleet(self.id)
        self._seeing = asyncio.Lock()
        self._shards: tuple[int, ...] = tuple(range(settings.shards))
        self._scans: dict[int, Scan] = {}
        self._foreign_full_s: dict[int, float] = {}
        self._foreign_calm_until_s: dict[int, float] = {}
        self._idle_at_s = 0.0
        self._said_s = self._seen_s = self._flushed_s = self._slow_until_s = -math.inf
        self._said_interval_s = BEAT_INTERVAL_S
        self._store_watch = StoreWatch(self._clock, attempts.record)
        self._unripe: dict[Hint, int] = {}
        self._agenda = Agenda(settings.batch_size)
        self._known: set[Hint] = set()
        self._lingering: list[tuple[float, Hint]] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._claiming = self._claims = self._claims_before = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_slow = False
        self._reported: set[str] = set()
        self._throttle = Throttle()

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._attempts.counts)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when all attempts have ended, or their grace has.

        Raises LoopEnded if it cannot go on: this process must end.
        """
        self._idle_at_s = self._clock.monotonic_s() + IDLE_AFTER_S
        await self._survive(self._beat)
        loops = [
            asyncio.create_task(self._repeat(interval_s, step))
            for interval_s, step in (
                (BEAT_INTERVAL_S, self._beat),
                (self._settings.poll_interval_s, self._poll),
                (FOREIGN_INTERVAL_S, self._look_at_foreign),
                (SHARDS_INTERVAL_S, self._read_shards),
            )
        ]
        helpers = [
            asyncio.create_task(self._repeat(FLUSH_INTERVAL_S, self._flush)),
            asyncio.create_task(self._repeat(ARM_INTERVAL_S, self._arm)),
        ]
        sweep = asyncio.create_task(self._sweep_every_minute())
        await self._until(stop, {*loops, *helpers, sweep})
        grace = self._grace()
        loops[0].cancel()
        leave = asyncio.create_task(self._survive(partial(self._queue.leave, self.id)))
        if grace.linger_s:
            await asyncio.sleep(grace.linger_s)
        ends_s = self._clock.monotonic_s() + grace.drain_s
        await self._drain([*loops, sweep], grace.drain_s)
        for helper in helpers:
            helper.cancel()
        flush = asyncio.create_task(self._survive(self._queue.flush))
        left_s = ends_s - self._clock.monotonic_s()
        await asyncio.wait({leave, flush}, timeout=max(LAST_WORDS_S, min(CLEAN_UP_S, left_s)))
        for late in (leave, flush):
            late.cancel()

    async def _until(self, stop: asyncio.Event, loops: Set[asyncio.Task[None]]) -> None:
        """A loop ends only if a handler cancelled it; without it nothing might be claimed."""
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stop.is_set():
            log.error("a loop was cancelled: this process ends", extra={"action": "loop_ended"})
            raise LoopEnded("a handler cancelled what was not its own")

    async def _drain(self, loops: list[asyncio.Task[None]], drain_s: float) -> None:
        """Claim no more; what still runs at the end is left to its lease."""
        self._attempts.stopping = True
        for loop in loops:
            loop.cancel()
        self._agenda.drop(lambda hint: True)
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=drain_s)
        for left in list(self._running.values()):
            left.cancel()

    # Finding

    async def _poll(self) -> None:
        """Read the own shards' hints that come due within the lookahead into the agenda.

        Not while it holds more than will be claimed until the next time, unless that is for slow
        handlers: then there may be room for another type.
        """
        own = [shard for shard, owner in self._owners().items() if owner == self.id]
        self._leave_to_others(self._scans.keys() - own)
        self._scans = {shard: self._scans.get(shard, Scan()) for shard in own}
        self._forget_lingering()
        claims, self._claims_before = self._claims - self._claims_before, self._claims
        is_quick = claims >= self._settings.batch_size
        if (is_quick or self._is_slow) and self._backlog() > claims:
            return
        await self._all(self._poll_shard(shard, self._scans[shard]) for shard in own)

    def _leave_to_others(self, shards: Set[int]) -> None:
        """Their new owners have read the same hints: who claims them twice wastes a write."""
        if not shards:
            return
        count = self._settings.shards
        left = self._agenda.drop(lambda hint: shard_of(hint.id, count) in shards)
        self._known.difference_update(left)

    async def _poll_shard(self, shard: int, scan: Scan) -> None:
        """Oldest first; what the agenda has no room for is read on from there at the next poll."""
        until_ms = self._clock.now_ms() + round(self._settings.lookahead_s * 1000)
        if scan.resume is None:
            scan.reading_full = self._clock.monotonic_s() >= scan.full_at_s
            scan.since_ms = None if scan.reading_full else self._clock.now_ms() - LOOK_BACK_MS
        while (room := AGENDA_MAX - len(self._agenda)) > 0:
            page = await self._queue.due(
                shard,
                since_ms=scan.since_ms,
                until_ms=until_ms,
                limit=min(PAGE, room),
                resume=scan.resume,
            )
            for hint in page.hints:
                self._offer(hint)
            self._fill()
            scan.resume = page.next
            if page.next is None:
                break
        if scan.resume is None and scan.reading_full:
            spread = self._rng.uniform(0.9, 1.1)
            scan.full_at_s = self._clock.monotonic_s() + FULL_SCAN_INTERVAL_S * spread

    def _owners(self) -> dict[int, str]:
        """The processor that owns each shard, by what is known of the fleet now."""
        live = self._fleet.live(self._clock.monotonic_s())
        nearest = ownership.nearest(self._shards, live)
        return {shard: nearest[shard][0] for shard in self._shards}

    async def _look_at_foreign(self) -> None:
        """With places free, take what others left overdue, after a look at the tasks.

        A store that is slow for one is slow for all: then an owner that beats is not helped.
        A shard is looked at by the three nearest processors that seem to be there: two of them may
        have died just now. Its owner, as long as it lives, is one of the three; an idle one's shard
        is looked at by one other, and seldom.
        """
        if self._agenda.free <= 0 or self._is_ready_now():
            return
        now_ms = self._clock.now_ms()
        self._unripe = {hint: at_ms for hint, at_ms in self._unripe.items() if at_ms > now_ms}
        fresh, now_s = await self._surely_live(), self._clock.monotonic_s()
        near = ownership.nearest(self._shards, fresh, FOREIGN_NEAREST)
        calm = self._fleet.slow(IDLE_BEAT_INTERVAL_S).intersection(fresh)
        spared = set(fresh) if self._is_slow else set()

        def is_time(shard: int, owner: str) -> bool:
            if owner not in calm:
                return self.id in near[shard]
            is_near = self.id in near[shard][:CALM_NEAREST]
            return is_near and now_s >= self._foreign_calm_until_s.get(shard, 0.0)

        await self._all(
            self._look_at_shard(shard, owner in fresh)
            for shard, owner in self._owners().items()
            if owner != self.id and owner not in spared and is_time(shard, owner)
        )

    async def _surely_live(self) -> tuple[str, ...]:
        """Those whose heartbeat is not late. Whoever seems late may have beaten since."""
        now_s = self._clock.monotonic_s()
        late_s = fleet.FRESH_LATE_S + 2 * self._queue.pressure().latency_s
        if self._fleet.live(now_s) != self._fleet.live(now_s, late_s):
            await self._see_others()
        return self._fleet.live(self._clock.monotonic_s(), late_s)

    async def _look_at_shard(self, shard: int, has_owner: bool) -> None:
        """Mostly a little back from now; from the very beginning at first, and every 10 s, or as
        seldom as its owner does.

        has_owner: whether its owner surely beats.
        """
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        full_interval_s = FULL_SCAN_INTERVAL_S if has_owner else FOREIGN_FULL_SCAN_INTERVAL_S
        is_full = now_s >= self._foreign_full_s.get(shard, -math.inf) + full_interval_s
        resume: str | None = None
        found = False
        for _ in range(FOREIGN_PAGES):
            page = await self._queue.due(
                shard,
                since_ms=None if is_full else now_ms - FOREIGN_LOOK_BACK_MS,
                until_ms=now_ms - (FOREIGN_PATIENCE_MS if has_owner else FOREIGN_OVERDUE_MS),
                limit=FOREIGN_PAGE,
                resume=resume,
            )
            ripe = [hint for hint in page.hints if self._is_ripe(hint)]
            await self._take_foreign(ripe, awaits_leases=not has_owner)
            found = found or bool(page.hints)
            resume = page.next
            if resume is None or self._agenda.free <= 0:
                break
        if not found:
            calm_s = FOREIGN_CALM_S * self._rng.uniform(0.5, 1.0)
            self._foreign_calm_until_s[shard] = now_s + calm_s
        if is_full:
            self._foreign_full_s[shard] = now_s

    def _is_ripe(self, hint: Hint) -> bool:
        return self._is_new(hint) and hint not in self._unripe

    async def _take_foreign(self, hints: list[Hint], *, awaits_leases: bool) -> None:
        """awaits_leases: whether to be there when one ends, rather than to look again then."""
        if not hints:
            return
        tasks = await self._queue.get({hint.id for hint in hints})
        now_ms = self._clock.now_ms()
        for hint in hints:
            task = tasks.get(hint.id)
            if task is not None and task.is_claimable(now_ms):
                self._offer(hint)
                continue
            if awaits_leases and task is not None and task.state is TaskState.RUNNING:
                self._offer(hint, task.due_at_ms)
                continue
            again = None
            if task is not None or hint.id not in tasks:
                again = await self._attempts.refused(hint, task)
            self._unripe[hint] = again.at_ms if again else now_ms + round(LINGER_S * 1000)
        self._fill()

    async def _read_shards(self) -> None:
        self._shards = tuple(await self._queue.shards())

    def _offer(self, hint: Hint, at_ms: int | None = None) -> None:
        """Put a hint into the agenda, unless it is there, or under way, or not for this version.

        at_ms: when to look at its task, if not at the hint's own time.
        """
        if not self._is_new(hint):
            return
        self._known.add(hint)
        if hint.type not in self._attempts.handlers:
            self._linger(hint, LEAVE_ALONE_S)
            self._report_once(f"type {hint.type!r}", "left alone: no handler for this task type")
            return
        self._again(hint, hint.due_at_ms if at_ms is None else at_ms)

    def _is_new(self, hint: Hint) -> bool:
        return hint not in self._known

    def _linger(self, hint: Hint, linger_s: float) -> None:
        heapq.heappush(self._lingering, (self._clock.monotonic_s() + linger_s, hint))

    def _forget_lingering(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._lingering and self._lingering[0][0] <= now_s:
            self._known.discard(heapq.heappop(self._lingering)[1])

    async def _all(self, steps: Iterable[Awaitable[None]]) -> None:
        """See every step through, then raise the first error."""
        for error in await asyncio.gather(*steps, return_exceptions=True):
            if error is not None:
                raise error

    # Running

    def _waiting(self) -> int:
        """How many hints are ready although there are places for them."""
        has_turn = self._agenda.turn(self._clock.now_ms(), self._clock.monotonic_s()) is not None
        return self._backlog() if has_turn else 0

    def _backlog(self) -> int:
        """How many hints the agenda holds, if it has begun to fall behind; else 0."""
        is_behind = self._agenda.first_ms() < self._clock.now_ms() - BEHIND_MS
        return len(self._agenda) if is_behind else 0

    async def _flush(self) -> None:
        """What is due comes before what can be cleaned up later, and then in full batches."""
        now_s = self._clock.monotonic_s()
        if self._queue.pressure().is_slow:
            self._slow_until_s = now_s + SLOW_FOR_S
        self._is_slow = now_s < self._slow_until_s
        if self._is_slow and now_s < self._flushed_s + CLEAN_SLOW_S:
            return
        self._flushed_s = now_s
        is_busy = self._backlog() > self._settings.batch_size
        await self._queue.flush(age_s=CLEAN_LATER_S if is_busy else 0.0)

    def _is_ready_now(self) -> bool:
        return self._agenda.first_ms() <= self._clock.now_ms()

    def _fill(self) -> None:
        """Start an attempt for each hint whose instant has come while there are free places.

        Types take turns. What the store has no room for waits in the agenda, all of it together.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._attempts.stopping:
            return
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        while (type := self._agenda.turn(now_ms, now_s)) is not None:
            held = len(self._running) - self._claiming
            if self._attempts.is_held_up() or not self._queue.may_claim(self._claiming, held):
                self._fill_in(HELD_BACK_S)
                return
            hint = self._agenda.take(type)
            if hint.id in self._running:
                self._agenda.done(hint)
                self._again(hint, now_ms + 1_000)
            else:
                self._claiming += 1
                self._running[hint.id] = asyncio.create_task(self._attempt(hint))
        next_ms = self._agenda.next_ms(now_ms)
        if next_ms < math.inf:
            self._fill_in(max(0.001, (next_ms - now_ms) / 1000))

    def _fill_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._fill)

    def _claimed(self) -> None:
        """One claim less waits for its answer: there may be room for another."""
        self._claiming -= 1
        self._claims += 1
        if self._agenda:
            self._fill()

    def _again(self, hint: Hint, at_ms: int) -> None:
        self._agenda.put(hint, at_ms, self._clock.monotonic_s())

    async def _attempt(self, hint: Hint) -> None:
        try:
            again = await self._attempts.make(hint, self._claimed)
        except UnreadableTask as error:
            self._report_once(hint.id, f"left alone: {error}")
            self._linger(hint, LEAVE_ALONE_S)
            again = None
        except Exception:
            log.exception("an attempt went wrong", extra=self._about(hint, "attempt_error"))
            again = Again(self._clock.now_ms() + 1_000)
        except asyncio.CancelledError:
            self._again(hint, self._clock.now_ms() + LEASE_MS)
            raise
        finally:
            del self._running[hint.id]
            self._agenda.done(hint)
        if again is None:
            self._linger(hint, LINGER_S)
        else:
            self._again(hint, again.at_ms)
        self._fill()

    # Keeping alive

    async def _beat(self) -> None:
        """Called each second. Who is idle has less to say, and so has everybody while the store is
        slow; others are looked at as often as the busiest of all beats, or this one if it is slow.
        """
        now_s = self._clock.monotonic_s()
        self._store_watch.look(self._queue.pressure(), self._waiting())
        if self._running or self._agenda:
            self._idle_at_s = now_s + IDLE_AFTER_S
        interval_s = IDLE_BEAT_INTERVAL_S if now_s >= self._idle_at_s else self._usual_beat_s()
        await self._say(interval_s)
        busiest_s = interval_s if self._is_slow else self._fleet.least_interval_s(now_s)
        look_s = min(interval_s, busiest_s) - BEAT_INTERVAL_S / 2
        if now_s < self._seen_s + look_s:
            return
        self._compare_clocks(await self._see_others())
        for dead in self._fleet.long_dead(now_s):
            await self._queue.leave(dead)

    def _usual_beat_s(self) -> float:
        """Whole seconds: as many of its answers' delays as keep heartbeats a small part of what the
        store does."""
        delay_s = self._queue.pressure().delay_s
        return float(min(IDLE_BEAT_INTERVAL_S, max(BEAT_INTERVAL_S, math.ceil(40 * delay_s))))

    async def _see_others(self) -> list[Heartbeat]:
        """Those who have beaten since the last time."""
        async with self._seeing:
            self._seen_s = self._clock.monotonic_s()
            self._fleet.look(self._seen_s)
            rows = await self._queue.heartbeats()
            now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
            return self._fleet.see(rows, now_s=now_s, now_ms=now_ms)

    async def _say(self, interval_s: float) -> None:
        """Beat, unless the last beat promised no other one yet, nor is there more to say now."""
        now_s = self._clock.monotonic_s()
        wait_s = min(interval_s, self._said_interval_s) - BEAT_INTERVAL_S / 2
        if now_s < self._said_s + wait_s:
            return
        beat = Heartbeat(
            processor=self.id,
            kind=self._kind,
            beat_ms=self._clock.now_ms(),
            interval_ms=round(interval_s * 1000),
            held_back_s=self._held_back_s(),
        )
        self._said_s, self._said_interval_s = now_s, interval_s
        await self._queue.beat(beat)

    def _held_back_s(self) -> int:
        """For how long the oldest ready hint has waited for the store's sake."""
        first_ms = self._agenda.first_ms()
        if not self._store_watch.is_slow or first_ms == math.inf:
            return 0
        return max(0, self._clock.now_ms() - round(first_ms)) // 1000

    def _compare_clocks(self, others: list[Heartbeat]) -> None:
        """Who disagrees about the time, though both go by the store's clock, is told of once."""
        for other in others:
            ahead_ms = other.beat_ms - self._clock.now_ms()
            if ahead_ms > OFFSET_WARN_MS:
                text = f"the clock of {other.processor} is {ahead_ms} ms ahead of this one"
                self._report_once(other.processor, text)

    async def _arm(self) -> None:
        oldest_s = next(iter(self._attempts.kill_at_s.values()), None)
        self._watchdog.arm(oldest_s or self._clock.monotonic_s() + KILL_AFTER_S)

    async def _sweep_every_minute(self) -> None:
        minute = self._clock.now_ms() // SWEEP_INTERVAL_MS - (1 if self._sweeps_always else 0)
        while True:
            now_ms = self._clock.now_ms()
            if now_ms // SWEEP_INTERVAL_MS != minute:
                minute = now_ms // SWEEP_INTERVAL_MS
                live = self._fleet.live(self._clock.monotonic_s())
                if self._sweeps_always or ownership.owner(f"sweep {minute}", live) == self.id:
                    await self._survive(partial(self._sweep, minute))
            await asyncio.sleep(1)

    async def _sweep(self, minute: int) -> None:
        now_ms = self._clock.now_ms()
        changed = await self._queue.sweep_overdue(now_ms=now_ms)
        segment = minute % SWEEP_SEGMENTS
        changed += await self._queue.sweep_segment(segment, SWEEP_SEGMENTS, now_ms=now_ms)
        self._attempts.counts["swept"] += changed
        if changed:
            log.info("swept %d rows", changed, extra={"action": "swept", "rows": changed})

    async def _repeat(self, interval_s: float, step: Callable[[], Awaitable[None]]) -> None:
        """Passes begin so far apart at most, unless one takes longer; each processor at its own."""
        while True:
            next_s = self._clock.monotonic_s() + interval_s * self._rng.uniform(0.97, 1.0)
            await self._survive(step)
            left_s = next_s - self._clock.monotonic_s()
            await asyncio.sleep(max(interval_s / 10, left_s))

    async def _survive(self, step: Callable[[], Awaitable[None]]) -> None:
        """The loops outlive every error; the next pass tries again."""
        try:
            await step()
        except StoreUnavailable as error:
            self._tell_now_and_then(error)
        except Exception:
            log.exception("a loop went wrong", extra={"action": "loop_error"})

    def _tell_now_and_then(self, error: StoreUnavailable) -> None:
        """A store that is away is away for every loop, and for long."""
        if self._throttle.admits(self._clock.monotonic_s()):
            log.warning("the store: %s", error, extra={"action": "store_unavailable"})

    def _report_once(self, about: str, text: str) -> None:
        if about not in self._reported and len(self._reported) < AGENDA_MAX:
            self._reported.add(about)
            log.warning("%s: %s", about, text, extra={"action": "left_alone"})

    def _about(self, hint: Hint, action: str) -> dict[str, str]:
        return {"action": action, "task_id": hint.id}
