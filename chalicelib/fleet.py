"""Who is alive, and how the live processors divide the shards among them.

This saves work only: two processors that disagree for a while claim the same tasks, and the
store decides.
"""

from collections.abc import Collection, Iterable
from hashlib import blake2b

from chalicelib.store import Heartbeat

DEAD_AFTER_S = 4.0
"""A processor whose heartbeat did not change for this long gets no shards."""
STALE_AFTER_MS = 10_000
"""A row this old when it is first seen is dead: far more than clocks may differ."""
FORGET_AFTER_S = 60.0
"""After this long its row is deleted."""


class Fleet:
    """Live processors as one of them sees them, by its own monotonic clock."""

    def __init__(self, me: str) -> None:
        self.me = me
        self._changes: dict[str, tuple[int, float]] = {}

    def see(self, heartbeats: Iterable[Heartbeat], *, now_s: float, now_ms: int) -> list[Heartbeat]:
        """Take note of all rows as they are now; returns those that changed since the last look."""
        rows = {row.processor: row for row in heartbeats}
        self._changes = {id: seen for id, seen in self._changes.items() if id in rows}
        changed = [
            row for id, row in rows.items() if self._changes.get(id, (None, 0))[0] != row.beat_ms
        ]
        for row in changed:
            is_stale = row.processor not in self._changes and row.beat_ms < now_ms - STALE_AFTER_MS
            seen_s = now_s - DEAD_AFTER_S if is_stale else now_s
            self._changes[row.processor] = (row.beat_ms, seen_s)
        live = self.live(now_s)
        return [row for row in changed if row.processor != self.me and row.processor in live]

    def live(self, now_s: float) -> list[str]:
        """Ids of the processors that are alive, this one always."""
        alive = {id for id, (_, seen_s) in self._changes.items() if now_s - seen_s < DEAD_AFTER_S}
        return sorted(alive | {self.me})

    def long_dead(self, now_s: float) -> list[str]:
        changes = self._changes.items()
        dead = [id for id, (_, seen_s) in changes if now_s - seen_s > FORGET_AFTER_S]
        return [id for id in dead if id != self.me]


def beating(heartbeats: Iterable[Heartbeat], *, now_ms: int) -> list[Heartbeat]:
    """Those that are alive by one look at their rows, as far as the clocks agree."""
    oldest_ms = now_ms - round(DEAD_AFTER_S * 1000)
    return sorted((row for row in heartbeats if row.beat_ms > oldest_ms), key=lambda r: r.processor)


def owner(thing: object, processors: Collection[str]) -> str:
    """Rendezvous hashing: every processor computes the same owner, and few things move."""
    return max(processors, key=lambda id: blake2b(f"{id}/{thing}".encode(), digest_size=8).digest())
