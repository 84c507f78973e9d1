"""Who is alive, as one processor sees the others."""

import math
from collections.abc import Iterable

from chalicelib.store.contract import Heartbeat
from chalicelib.store.ownership import DEAD_LATE_S

FRESH_LATE_S = 0.6
"""A processor whose next heartbeat is less late than this is most likely there."""
BLIND_S = 3.0
"""A look that took longer than this was none."""
FORGET_AFTER_S = 60.0
"""After this long its row is deleted."""


class Fleet:
    """Live processors as one of them sees them, by its own monotonic clock.

    Who is alive is told as of the latest look that succeeded, from when it was begun: what has not
    been seen since, for whatever reason, is nobody's death. looked_s: when the latest look began,
    whatever came of it.
    """

    def __init__(self, me: str) -> None:
        self.me = me
        self._rows: dict[str, tuple[Heartbeat, float]] = {}
        self.looked_s = self._seen_s = -math.inf
        self._blind_since_s: float | None = None

    def look(self, now_s: float) -> None:
        """A look at the rows begins."""
        self.looked_s = now_s
        if self._blind_since_s is None:
            self._blind_since_s = now_s

    def see(self, heartbeats: Iterable[Heartbeat], *, now_s: float, now_ms: int) -> list[Heartbeat]:
        """Take note of all rows as they are now; returns those that changed since the last look.

        Of a row that was not seen before, only the clocks tell how old it is. Processors that could
        not be seen for a while could most likely not send a heartbeat either: the store was away.
        That time is not counted.
        """
        blind_s = 0.0 if self._blind_since_s is None else now_s - self._blind_since_s
        self._blind_since_s = None
        self._seen_s = self.looked_s
        before, self._rows = self._rows, {}
        changed: list[Heartbeat] = []
        for row in heartbeats:
            known = before.get(row.processor)
            if known is not None and known[0] == row:
                since_s = known[1] + (blind_s if blind_s > BLIND_S else 0.0)
                self._rows[row.processor] = (row, since_s)
                continue
            changed.append(row)
            age_s = max(0.0, (now_ms - row.written_ms) / 1000) if known is None else 0.0
            dead_s = self._seen_s - row.interval_ms / 1000 - DEAD_LATE_S
            self._rows[row.processor] = (row, max(now_s - age_s, dead_s))
        live = self.live()
        return [row for row in changed if row.processor != self.me and row.processor in live]

    def live(self, late_s: float = DEAD_LATE_S) -> tuple[str, ...]:
        """Ids of the processors whose next heartbeat was not as late, and this one, sorted."""
        alive = {id for id in self._rows if not self._is_late(id, self._seen_s, late_s)}
        return tuple(sorted(alive | {self.me}))

    def seems_late(self, now_s: float, late_s: float = DEAD_LATE_S) -> bool:
        """Whether the next heartbeat of a live other one is as late, unless it came since."""
        return any(self._is_late(id, now_s, late_s) for id in self.live() if id != self.me)

    def others(self) -> list[Heartbeat]:
        """The heartbeats of the other live ones."""
        return [self._rows[id][0] for id in self.live() if id != self.me]

    def least_interval_s(self) -> float:
        """The shortest interval of heartbeats of a live other one; infinite if there is none."""
        return min((row.interval_ms / 1000 for row in self.others()), default=math.inf)

    def slow(self, interval_s: float) -> set[str]:
        """Ids of those that send heartbeats at such an interval or a longer one."""
        rows = self._rows.items()
        return {id for id, (row, _) in rows if row.interval_ms >= interval_s * 1000}

    def long_dead(self) -> list[str]:
        rows = self._rows.items()
        long_ago_s = self._seen_s - FORGET_AFTER_S
        return [id for id, (_, at_s) in rows if at_s < long_ago_s and id != self.me]

    def _is_late(self, id: str, now_s: float, late_s: float) -> bool:
        row, since_s = self._rows[id]
        return now_s - since_s >= row.interval_ms / 1000 + late_s
