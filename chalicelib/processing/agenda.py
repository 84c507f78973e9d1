"""Which hints a processor knows, when it is to look at each, and whose turn it is when a place is
free. A data structure: it is given the time.

A type that is alone takes every place. Of several that were seen within a minute, each leaves an
eighth of the places to the others, and who runs least goes first: however long the handlers of one
type take, tasks of another find room at their instant.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from chalicelib.store.contract import Hint

SEEN_FOR_S = 60.0
"""For so long after a hint of a type was put here, others leave it room."""
LOOK_EVERY_S = 1.0
SHARE_LEFT = 8
"""A type that is not alone leaves one of so many places to the others, at least one."""
BACKLOG_AFTER_MS = 500
"""Hints that have been ready for longer than this are a backlog."""


@dataclass(order=True, slots=True)
class Entry:
    """A hint to be looked at from this time on, in milliseconds since the epoch."""

    at_ms: int
    hint: Hint = field(compare=False)


class Agenda:
    """A hint is known from when it was first put until it is forgotten: `closed`, some time ago.

    places: how many tasks may run at once. free: how many more may now.
    """

    def __init__(self, places: int) -> None:
        self.free = places
        self._places = places
        self._known: set[Hint] = set()
        self._closed: list[tuple[float, Hint]] = []
        self._heaps: dict[str, list[Entry]] = {}
        self._first: deque[Hint] = deque()
        self._shared = max(1, places - max(1, places // SHARE_LEFT))
        self._seen_s: dict[str, float] = {}
        self._seen: set[str] = set()
        self._looked_s = -math.inf
        self._running: Counter[str] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def knows(self, hint: Hint) -> bool:
        return hint in self._known

    def put(self, hint: Hint, at_ms: int, now_s: float) -> None:
        """now_s: the monotonic time."""
        self._known.add(hint)
        if hint.type not in self._seen:
            self._looked_s = -math.inf
        self._seen_s[hint.type] = now_s
        heapq.heappush(self._heaps.setdefault(hint.type, []), Entry(at_ms, hint))
        self._size += 1

    def put_first(self, hint: Hint) -> None:
        """It is the next one, whatever else waits and whose turn it would be."""
        self._known.add(hint)
        self._first.append(hint)
        self._size += 1

    def close(self, hint: Hint, forget_at_s: float) -> None:
        """It was dealt with: its row is about to be deleted, or left alone for some time."""
        self._known.add(hint)
        heapq.heappush(self._closed, (forget_at_s, hint))

    def forget(self, now_s: float) -> None:
        """Closed hints whose time has come are new again if they are still found."""
        while self._closed and self._closed[0][0] <= now_s:
            self._known.discard(heapq.heappop(self._closed)[1])

    def first_ms(self) -> float:
        """When the first hint is to be looked at; infinite if there is none."""
        if self._first:
            return self._first[0].due_at_ms
        return min((heap[0].at_ms for heap in self._heaps.values() if heap), default=math.inf)

    def next_ms(self, now_ms: int) -> float:
        """When the next one of a type comes of which none is ready; infinite if none does."""
        heads = (heap[0].at_ms for heap in self._heaps.values() if heap)
        return min((at_ms for at_ms in heads if at_ms > now_ms), default=math.inf)

    def backlog(self, now_ms: int) -> int:
        """How many hints are here if the first has been ready for long; else 0."""
        return self._size if self.first_ms() < now_ms - BACKLOG_AFTER_MS else 0

    def turn(self, now_ms: int, now_s: float) -> str | None:
        """The type whose turn it is; None if no hint is ready for which there is a place."""
        if self.free <= 0:
            return None
        if self._first:
            return self._first[0].type
        if now_s > self._looked_s + LOOK_EVERY_S:
            self._look(now_s)
        turn: str | None = None
        least = (self._places, 0)
        for type, heap in self._heaps.items():
            if not heap or heap[0].at_ms > now_ms:
                continue
            standing = (self._running[type], heap[0].at_ms)
            most = self._places if self._seen <= {type} else self._shared
            if standing[0] < most and standing < least:
                turn, least = type, standing
        return turn

    def _look(self, now_s: float) -> None:
        """Which types were seen lately; others are forgotten."""
        self._looked_s = now_s
        self._seen = {type for type, at_s in self._seen_s.items() if now_s - at_s <= SEEN_FOR_S}
        for type in self._seen_s.keys() - self._seen:
            if not self._heaps[type] and not self._running[type]:
                del self._seen_s[type], self._heaps[type], self._running[type]

    def take(self, type: str) -> Hint:
        """The first hint of the type whose turn it is. It has a place until it is `done`."""
        self._size -= 1
        self._running[type] += 1
        self.free -= 1
        return self._first.popleft() if self._first else heapq.heappop(self._heaps[type]).hint

    def done(self, hint: Hint) -> None:
        """Its place is free."""
        self._running[hint.type] -= 1
        self.free += 1

    def drop(self, is_dropped: Callable[[Hint], bool]) -> None:
        """Take out and forget all hints for which this is true."""
        dropped: list[Hint] = []
        for type, heap in self._heaps.items():
            dropped += [entry.hint for entry in heap if is_dropped(entry.hint)]
            self._heaps[type] = [entry for entry in heap if not is_dropped(entry.hint)]
            heapq.heapify(self._heaps[type])
        self._size -= len(dropped)
        self._known.difference_update(dropped)
