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
    """Live processors as one of them sees them, by its own monotonic clock."""

    def __init__(self, me: str) -> None:
        self.me = me
        self._rows: dict[str, tuple[Heartbeat, float]] = {}
        self._blind_since_s: float | None = None

    def look(self, now_s: float) -> None:
        """A look at the rows begins. Until one succeeds, nobody is judged by what is not seen."""
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
            self._rows[row.processor] = (
                row,
                now_s - min(age_s, row.interval_ms / 1000 + DEAD_LATE_S),
            )
        live = self.live(now_s)
        return [row for row in changed if row.processor != self.me and row.processor in live]

    def live(self, now_s: float, late_s: float = DEAD_LATE_S) -> tuple[str, ...]:
        """Ids of the processors whose next heartbeat is not as late, and this one, sorted."""
        if self._blind_since_s is not None:
            now_s = min(now_s, self._blind_since_s)
        alive = {
            id
            for id, (row, seen_s) in self._rows.items()
            if now_s - seen_s < row.interval_ms / 1000 + late_s
        }
        return tuple(sorted(alive | {self.me}))

    def others(self, now_s: float) -> list[Heartbeat]:
        """The heartbeats of the other live ones."""
        return [self._rows[id][0] for id in self.live(now_s) if id != self.me]

    def least_interval_s(self, now_s: float) -> float:
        """The shortest interval of heartbeats of a live other one; infinite if there is none."""
        others = self._rows.keys() & set(self.live(now_s)) - {self.me}
        return min((self._rows[id][0].interval_ms / 1000 for id in others), default=math.inf)

    def slow(self, interval_s: float) -> set[str]:
        """Ids of those that send heartbeats at such an interval or a longer one."""
        rows = self._rows.items()
        return {id for id, (row, _) in rows if row.interval_ms >= interval_s * 1000}

    def long_dead(self, now_s: float) -> list[str]:
        rows = self._rows.items()
        return [id for id, (_, at_s) in rows if now_s - at_s > FORGET_AFTER_S and id != self.me]
