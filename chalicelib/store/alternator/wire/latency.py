"""How long answers of one node take: at best, and in a round."""

import itertools
from math import inf

from chalicelib.store.alternator.wire.outstanding import Kind

BEST_FOR_S = 300.0
"""What was the best is forgotten after this to twice this: a store may have moved away."""
BEST_MAX_S = 0.3
KINDS_APART = 4.0
"""At best one kind of requests takes so many times as long as another, and a quarter of the slack:
what is first asked in a burst is not believed to take at best as long as it did."""


class Best:
    """How long each kind of requests takes at best."""

    def __init__(self, slack_s: float) -> None:
        self._slack_s = slack_s
        self._now: dict[Kind, float] = {}
        self._before: dict[Kind, float] = {}
        self._began_s = -inf

    def seen(self, kind: Kind, latency_s: float, now_s: float) -> float:
        """One took so long; how long one takes at best."""
        if now_s - self._began_s > BEST_FOR_S:
            self._began_s, self._before, self._now = now_s, self._now, {}
        self._now[kind] = min(latency_s, self._now.get(kind, inf))
        known_s = min(self._now[kind], self._before.get(kind, inf))
        least_s = min(itertools.chain(self._now.values(), self._before.values()))
        return min(BEST_MAX_S, known_s, KINDS_APART * least_s + self._slack_s / 4)


class Round:
    """As many answers as were asked at once, to requests sent since `began_s`.

    The quickest tells: a queue makes all wait, and a single one can be late for many reasons.
    excess: how long it took, as a share of what it may take. delay_s: how much longer than at best.
    was_full: there was no room for one more.
    """

    def __init__(self, began_s: float = -inf) -> None:
        self.began_s = began_s
        self.answers = 0
        self.excess = inf
        self.latency_s = self.delay_s = 0.0
        self.was_full = False

    def add(self, latency_s: float, best_s: float, slack_s: float) -> None:
        self.answers += 1
        excess = latency_s / (best_s + slack_s)
        if excess < self.excess:
            self.excess = excess
            self.latency_s, self.delay_s = latency_s, latency_s - best_s
