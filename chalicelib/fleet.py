"""Who is alive, and how the live processors divide the shards among them.

This saves work only: two processors that disagree for a while claim the same tasks, and the
store decides.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from chalicelib.store import Heartbeat

DEAD_AFTER_S = 4.0
"""A processor whose heartbeat did not change for this long gets no shards."""
FRESH_FOR_S = 1.6
"""One whose heartbeat changed within this time is most likely there: it beats once a second."""
FORGET_AFTER_S = 60.0
"""After this long its row is deleted."""


class Fleet:
    """Live processors as one of them sees them, by its own monotonic clock."""

    def __init__(self, me: str) -> None:
        self.me = me
        self._changes: dict[str, tuple[int, float]] = {}

    def see(self, heartbeats: Iterable[Heartbeat], *, now_s: float, now_ms: int) -> list[Heartbeat]:
        """Take note of all rows as they are now; returns those that changed since the last look.

        How old a row is that was not seen before, only the clocks tell.
        """
        rows = {row.processor: row for row in heartbeats}
        self._changes = {id: seen for id, seen in self._changes.items() if id in rows}
        changed = [
            row for id, row in rows.items() if self._changes.get(id, (None, 0))[0] != row.beat_ms
        ]
        for row in changed:
            is_new = row.processor not in self._changes
            age_s = max(0.0, (now_ms - row.beat_ms) / 1000) if is_new else 0.0
            self._changes[row.processor] = (row.beat_ms, now_s - min(age_s, DEAD_AFTER_S))
        live = self.live(now_s)
        return [row for row in changed if row.processor != self.me and row.processor in live]

    def live(self, now_s: float, within_s: float = DEAD_AFTER_S) -> tuple[str, ...]:
        """Ids of the processors whose heartbeat changed within this time, and this one, sorted."""
        alive = {id for id, (_, seen_s) in self._changes.items() if now_s - seen_s < within_s}
        return tuple(sorted(alive | {self.me}))

    def long_dead(self, now_s: float) -> list[str]:
        changes = self._changes.items()
        dead = [id for id, (_, seen_s) in changes if now_s - seen_s > FORGET_AFTER_S]
        return [id for id in dead if id != self.me]


def beating(heartbeats: Iterable[Heartbeat], *, now_ms: int) -> list[Heartbeat]:
    """Those that are alive by one look at their rows, as far as the clocks agree."""
    oldest_ms = now_ms - round(DEAD_AFTER_S * 1000)
    return sorted((row for row in heartbeats if row.beat_ms > oldest_ms), key=lambda r: r.processor)


@lru_cache(maxsize=8)
def nearest(
    things: tuple[object, ...], processors: tuple[str, ...], count: int = 1
) -> Mapping[object, tuple[str, ...]]:
    """For each thing its `count` nearest processors, the owner first, by rendezvous hashing.

    Every processor computes the same, and few things move when one comes or goes.
    """

    def distance(thing: object, id: str) -> bytes:
        return blake2b(f"{id}/{thing}".encode(), digest_size=8).digest()

    return {
        thing: tuple(sorted(processors, key=lambda id: distance(thing, id), reverse=True)[:count])
        for thing in things
    }


def owner(thing: object, processors: tuple[str, ...]) -> str:
    return nearest((thing,), processors)[thing][0]
