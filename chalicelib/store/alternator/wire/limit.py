"""How much one node is asked at once: as much as it answers without a long queue, found by trying.

Answers that take longer than at best waited in a queue at the store. They may wait for `slack_s`;
whoever asks little for longer than who asks much, so that all who ask get about the same share, and
one process alone makes others wait 0.1 s, 24 together 0.2 s. As long as they wait less, more is
asked; else less. A node that only fails, or does not answer at all, is asked one thing at a time,
with pauses.
"""

from math import inf
from random import Random

from chalicelib.store.alternator.wire.latency import Best, Round
from chalicelib.store.alternator.wire.outstanding import Asked, Kind, Outstanding

UNUSED_S = 2.0
"""What was not needed for so long is given up again, half of it each time: others may have come."""
ROUND_LEAST = 3
LEAST = 0.1
"""Below 1 there is one request at a time, with a pause after it: LEAST of the time is used."""
PACE_MAX_S = 1.0
"""Such a pause is never longer."""
FAILURES_MAX = 5
"""So many failures in a row, and nothing but one probe at a time is sent."""
PROBE_PAUSE_S = 0.05
PROBE_PAUSE_MAX_S = 2.0
"""Between two probes; it doubles with each that fails, with full jitter above half."""
LATENCY_MAX_S = 3.0
"""A longer one counts as this, so that what is usual is soon known again after an outage."""
TRY_AFTER_S = 0.5
TRY_MAX_S = 8.0
"""With all places taken and no answer to anything, one more is tried after this, then after twice
as long: it tells whether answers are lost or everything stands still."""


class Limit:
    """Times are readings of the event loop's clock, in seconds.

    slack_s: how much longer than at best an answer may take. start: requests at once to begin with;
    doubled each round until half of that is seen; what can wait never gets more. most: at most.
    size: how many may be at the node at once. latency_s: of the latest answers. delay_s: by how
    much they took longer than at best.
    """

    def __init__(self, slack_s: float, start: int, most: int, rng: Random) -> None:
        self._slack_s = slack_s
        self._most = float(most)
        self._rng = rng
        self._start = min(float(start), self._most)
        self.size = self._start
        self.latency_s = 0.0
        self.delay_s = 0.0
        self.failures = 0
        self.reduced_s = -inf
        """When the size was last reduced."""
        self.answered_s = -inf
        """When the latest answer came."""
        self._asked = Outstanding()
        self._best = Best(slack_s)
        self._is_starting = True
        self._round = Round()
        self._full_s = -inf
        self._paused_until_s = -inf
        self._probe_s = self._tried_s = -inf
        self._probes_failed = 0
        self._try_after_s = TRY_AFTER_S

    @property
    def outstanding(self) -> int:
        """What the node is still working on, for all that is known."""
        return len(self._asked)

    @property
    def is_failing(self) -> bool:
        return self.failures >= FAILURES_MAX

    def silent_s(self, now_s: float) -> float:
        """For how long it has answered nothing, although something was asked."""
        return max(0.0, now_s - max(self.answered_s, self._asked.oldest_s))

    def waited_s(self, now_s: float) -> float:
        """How long an answer takes, from what was answered and from its silence."""
        return max(self.latency_s, self.silent_s(now_s))

    def has_room(self, now_s: float, *, is_urgent: bool = False, can_wait: bool = False) -> bool:
        """Whether one more may be sent. is_urgent: it does not wait for a pause between two."""
        if self.is_failing:
            return not self._asked.awaited and now_s >= self._probe_s
        if can_wait:
            is_late = self.delay_s > self._slack_s / 2
            return len(self._asked) < (self._start if is_late else max(1.0, self.size))
        if self._is_full():
            self._fill(now_s)
            return min(self.silent_s(now_s), now_s - self._tried_s) >= self._try_after_s
        return is_urgent or now_s >= self._paused_until_s

    def ask(self, kind: Kind, now_s: float, *, can_wait: bool = False) -> Asked:
        """can_wait: that there is no more room for the like is no reason to ask for more."""
        if self._is_full():
            self._tried_s, self._try_after_s = now_s, min(TRY_MAX_S, 2 * self._try_after_s)
        asked = self._asked.add(kind, now_s)
        if len(self._asked) >= int(self.size) and not can_wait:
            self._fill(now_s)
        return asked

    def answered(self, asked: Asked, now_s: float) -> None:
        self._asked.answered(asked)
        self.failures = 0
        self.answered_s, self._try_after_s = now_s, TRY_AFTER_S
        if asked.kind is Kind.SCAN:
            return
        latency_s = now_s - asked.sent_s
        best_s = self._best.seen(asked.kind, latency_s, now_s)
        if self.size < 1:
            pace_s = min(PACE_MAX_S, latency_s * (1 / self.size - 1))
            self._paused_until_s = now_s + pace_s
        if asked.sent_s >= self._round.began_s:
            self._count(latency_s, best_s, now_s)

    def failed(self, asked: Asked, now_s: float) -> None:
        """It came to nothing at once: an error of the store's, or no connection."""
        self._asked.end(asked)
        was_probe = self.is_failing and asked.sent_s >= self._round.began_s
        self.failures += 1
        if was_probe or self.failures == FAILURES_MAX:
            self._probes_failed = self._probes_failed + 1 if was_probe else 0
            self._restart(now_s)

    def refused(self, now_s: float) -> None:
        """The store says that it is asked too much."""
        self._reduce(0.9, now_s)

    def unsent(self, asked: Asked) -> None:
        """It was not sent after all."""
        self._asked.end(asked)

    def given_up(self, asked: Asked, now_s: float) -> None:
        """Nobody waits for its answer any more; the node still works on it."""
        self._asked.given_up(asked, now_s)

    def look(self, now_s: float) -> None:
        """Called now and then: forget what the node must be done with, although it never said so,
        and places that were not needed."""
        if self.size > self._start and now_s - self._full_s > UNUSED_S:
            self.size = max(self._start, self.size / 2)
            self._is_starting = True
        if self._asked.end_overdue(now_s):
            self._restart(now_s)

    def is_overtaken(self, asked: Asked) -> bool:
        """See Outstanding."""
        return self._asked.is_overtaken(asked)

    def waiting(self, since_s: float) -> list[Asked]:
        """See Outstanding."""
        return self._asked.waiting(since_s)

    def _is_full(self) -> bool:
        return len(self._asked) >= max(1, int(self.size))

    def _fill(self, now_s: float) -> None:
        self._round.was_full = True
        self._full_s = now_s

    def _count(self, latency_s: float, best_s: float, now_s: float) -> None:
        ended = self._round
        ended.add(latency_s, best_s, self._slack_s)
        if ended.answers < max(ROUND_LEAST, int(self.size)):
            return
        self.latency_s = min(LATENCY_MAX_S, ended.latency_s)
        self.delay_s = (self.delay_s + max(0.0, ended.delay_s)) / 2
        excess = ended.excess / (1 + 1 / self.size)
        if ended.delay_s > self._slack_s / 2:
            self._is_starting = False
        if excess > 1:
            self._reduce(1 / excess, now_s)
        elif ended.was_full:
            self._grow()
        self._round = Round(now_s)

    def _grow(self) -> None:
        step = self.size if self._is_starting else min(1.0, self.size / 2)
        self.size = min(self._most, self.size + step)

    def _reduce(self, factor: float, now_s: float) -> None:
        self._is_starting = False
        self.size = max(LEAST, self.size * min(0.9, max(0.25, factor)))
        self.reduced_s = now_s

    def _restart(self, now_s: float) -> None:
        self.size = 1.0
        self._is_starting = True
        self.reduced_s = now_s
        self._probe_s = now_s + self._probe_pause_s()
        self._round = Round(now_s)

    def _probe_pause_s(self) -> float:
        doubled_s = PROBE_PAUSE_S * 2.0 ** min(10, self._probes_failed)
        return min(PROBE_PAUSE_MAX_S, doubled_s) * self._rng.uniform(0.5, 1.0)
