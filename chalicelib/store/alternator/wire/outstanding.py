"""Requests that a node is still working on, for all that is known."""

import itertools
from enum import StrEnum
from math import inf

OVERTAKEN_BY_S = 0.5
DONE_AFTER_S = 10.0
"""Until then the store may still work on a request that was given up (its own timeout)."""


class Kind(StrEnum):
    """Requests of one kind take about as long; how long a scan takes tells how much it read."""

    CONDITIONAL = "conditional"
    PLAIN = "plain"
    SCAN = "scan"


class Asked:
    """A request at a node, until it was answered, or the node must be done with it.

    given_up_s: since when nobody waits for it.
    """

    __slots__ = ("given_up_s", "kind", "sent_s")

    def __init__(self, kind: Kind, sent_s: float) -> None:
        self.kind = kind
        self.sent_s = sent_s
        self.given_up_s: float | None = None


class Outstanding:
    """Those of one node. Times are readings of the event loop's clock, in seconds.

    answered_sent_s: when the latest request was sent that was answered.
    """

    def __init__(self) -> None:
        self.answered_sent_s = -inf
        self._asked: dict[Asked, None] = {}
        self._given_up: dict[Asked, None] = {}
        self._overtaken: dict[Asked, None] = {}

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def awaited(self) -> int:
        """How many of them somebody still waits for."""
        return len(self._asked) - len(self._given_up)

    @property
    def oldest_s(self) -> float:
        """When the oldest was sent; infinite if there is none."""
        oldest = next(iter(self._asked), None)
        return inf if oldest is None else oldest.sent_s

    def add(self, kind: Kind, now_s: float) -> Asked:
        asked = Asked(kind, now_s)
        self._asked[asked] = None
        return asked

    def end(self, asked: Asked) -> None:
        self._asked.pop(asked, None)
        self._given_up.pop(asked, None)
        self._overtaken.pop(asked, None)

    def answered(self, asked: Asked) -> None:
        """The like that was sent so much earlier needs no place any more, whatever became of it."""
        self.end(asked)
        self.answered_sent_s = max(asked.sent_s, self.answered_sent_s)
        until_s = asked.sent_s - OVERTAKEN_BY_S
        if self.oldest_s > until_s:
            return
        for old in self._sent_until(until_s):
            if old.kind == asked.kind:
                self.end(old)
                if old.given_up_s is None:
                    self._overtaken[old] = None

    def given_up(self, asked: Asked, now_s: float) -> None:
        """Nobody waits for its answer any more; the node still works on it."""
        asked.given_up_s = now_s
        if asked in self._asked:
            self._given_up[asked] = None
        else:
            self.end(asked)

    def end_overdue(self, now_s: float) -> bool:
        """End what was given up and the node must be done with; whether there was any."""
        overdue = [asked for asked in self._given_up if now_s - asked.sent_s >= DONE_AFTER_S]
        for asked in overdue:
            self.end(asked)
        return bool(overdue)

    def is_overtaken(self, asked: Asked) -> bool:
        """Whether the like, or for a conditional write anything, that was sent so much later has
        been answered."""
        is_late = self.answered_sent_s >= asked.sent_s + OVERTAKEN_BY_S
        return asked in self._overtaken or (asked.kind is Kind.CONDITIONAL and is_late)

    def waiting(self, since_s: float) -> list[Asked]:
        """What was sent before then and is still waited for."""
        lost = (asked for asked in self._overtaken if asked.sent_s <= since_s)
        both = (*self._sent_until(since_s), *lost)
        return [asked for asked in both if asked.given_up_s is None]

    def _sent_until(self, until_s: float) -> list[Asked]:
        return list(itertools.takewhile(lambda asked: asked.sent_s <= until_s, self._asked))
