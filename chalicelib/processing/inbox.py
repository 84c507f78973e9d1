"""What a processor does with wake-up messages: their hints go to the agenda, as if a poll had found
them. What is taken is bounded, so that a flood costs the store nothing.
"""

import logging
from collections import Counter

from chalicelib.processing.agenda import Agenda
from chalicelib.processing.context import Context
from chalicelib.processing.own_shards import AGENDA_MAX
from chalicelib.processing.runner import Runner
from chalicelib.store.contract import Hint
from chalicelib.task import shard_of
from chalicelib.throttle import Throttle
from chalicelib.wakeups.message import DroppedMessage, Seal

log = logging.getLogger(__name__)

TAKEN_MAX = 200
"""New hints of one shard within a second; polls find the others."""


class Inbox:
    """dropped: how many messages, and new hints, were not taken, by why."""

    def __init__(self, context: Context, agenda: Agenda, runner: Runner) -> None:
        self.dropped: Counter[str] = Counter()
        self._me = context.id
        self._listener = context.listener
        self._clock = context.clock
        self._settings = context.settings
        self._counts = context.counts
        self._seal = Seal.of(context.settings)
        self._agenda = agenda
        self._runner = runner
        self._second = 0
        self._taken: Counter[int] = Counter()
        self._throttle = Throttle()

    def open(self) -> None:
        if self._listener is not None:
            self._listener.start(self.take)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def take(self, datagram: bytes) -> None:
        """One message, whoever sent it."""
        now_ms = self._clock.now_ms()
        try:
            hints = self._seal.opened(datagram, me=self._me, now_ms=now_ms)
        except DroppedMessage as error:
            self._drop(str(error))
            return
        before = self._counts["wakeups"]
        for hint in hints:
            self._take(hint, now_ms)
        if self._counts["wakeups"] > before:
            self._runner.fill()

    def _take(self, hint: Hint, now_ms: int) -> None:
        """What is due later is left to the polls, which are sure to find it in time."""
        is_ahead = hint.due_at_ms > now_ms + self._settings.lookahead_ms
        if is_ahead or self._agenda.knows(hint):
            return
        if len(self._agenda) >= AGENDA_MAX or not self._has_room(hint):
            self._drop("excess")
            return
        self._counts["wakeups"] += 1
        self._runner.offer(hint)

    def _has_room(self, hint: Hint) -> bool:
        """Counts it."""
        second = int(self._clock.monotonic_s())
        if second != self._second:
            self._second, self._taken = second, Counter()
        shard = shard_of(hint.id, self._settings.shards)
        self._taken[shard] += 1
        return self._taken[shard] <= TAKEN_MAX

    def _drop(self, why: str) -> None:
        self.dropped[why] += 1
        self._counts["wakeups_dropped"] += 1
        if self._throttle.admits(self._clock.monotonic_s()):
            told = ", ".join(f"{count} {why}" for why, count in sorted(self.dropped.items()))
            extra = {"action": "wakeups_dropped", "dropped": dict(self.dropped)}
            log.warning("wake-up messages were dropped so far: %s", told, extra=extra)
