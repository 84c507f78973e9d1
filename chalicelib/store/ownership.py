"""Which of the live processors owns which shard.

This saves work only: two processors that disagree for a while claim the same tasks, and the
store decides.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from chalicelib.store.contract import Heartbeat

DEAD_LATE_S = 3.0
"""A processor whose next heartbeat is late by this much gets no shards."""


def live_heartbeats(heartbeats: Iterable[Heartbeat], *, now_ms: int) -> list[Heartbeat]:
    """Those that are alive by one look at their rows, as far as the clocks agree."""
    late_ms = round(DEAD_LATE_S * 1000)
    live = (row for row in heartbeats if row.written_ms + row.interval_ms + late_ms > now_ms)
    return sorted(live, key=lambda row: row.processor)


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
