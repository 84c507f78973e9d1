"""The rows of processors, by which they know of each other."""

from collections.abc import Sequence

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item, JsonObject
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.contract import Heartbeat

FLEET = "all"
TEXTS, NUMBERS = ("wakeup", "host", "version"), ("places", "taken")
"""What a heartbeat of an earlier version lacks."""
NOBODY: Item = {"fleet": {"S": "none"}, "processor": {"S": "check"}}
"""A row for whoever wants to know whether rows can be put."""


class Heartbeats:
    """The table of heartbeats. rank: of the requests."""

    def __init__(self, requester: Requester, table: str, rank: Rank) -> None:
        self._requester = requester
        self._table = table
        self._rank = rank

    async def all(self) -> Sequence[Heartbeat]:
        """See TaskStore.heartbeats."""
        rows = self._requester.items(requests.query(self._table, "fleet", FLEET), rank=self._rank)
        return [_decoded(row) async for row in rows]

    async def put(self, heartbeat: Heartbeat) -> None:
        """In place of the processor's last one."""
        item: JsonObject = {
            "fleet": {"S": FLEET},
            "processor": {"S": heartbeat.processor},
            "kind": {"S": heartbeat.kind},
            "beat_ms": {"N": str(heartbeat.written_ms)},
            "interval_ms": {"N": str(heartbeat.interval_ms)},
        }
        if heartbeat.held_back_s:
            item["held_back_s"] = {"N": str(heartbeat.held_back_s)}
        told = {name: getattr(heartbeat, name) for name in (*TEXTS, *NUMBERS)}
        item |= {name: {"S": told[name]} for name in TEXTS if told[name]}
        item |= {name: {"N": str(told[name])} for name in NUMBERS if told[name] is not None}
        await self._requester.decide(requests.put_row(self._table, item), rank=self._rank)

    async def delete(self, processor: str) -> None:
        key: Item = {"fleet": {"S": FLEET}, "processor": {"S": processor}}
        await self._requester.decide(requests.delete_row(self._table, key), rank=self._rank)

    async def put_nobody(self, deadline_s: float) -> None:
        """A row that nobody reads: it tells whether the store takes writes."""
        request = requests.put_row(self._table, NOBODY)
        await self._requester.decide(request, deadline_s=deadline_s, rank=self._rank)


def _decoded(item: Item) -> Heartbeat:
    more: JsonObject = {name: item[name]["S"] for name in TEXTS if name in item}
    more |= {name: int(item[name]["N"]) for name in NUMBERS if name in item}
    return Heartbeat(
        processor=item["processor"]["S"],
        kind=item["kind"]["S"],
        written_ms=int(item["beat_ms"]["N"]),
        interval_ms=int(item["interval_ms"]["N"]),
        held_back_s=int(item["held_back_s"]["N"]) if "held_back_s" in item else 0,
        **more,
    )
