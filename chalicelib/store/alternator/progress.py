"""How far the slow sweep has come: shared by the fleet, so that whoever is next goes on there.

    partition sweep   rows <pass>/<number of the round>

The row of a round tells a position only if all before it was looked at in that round. So a row that
is written late, or a position that is lost, makes work twice and leaves out nothing: the highest
number counts, and its row belongs to no other round.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import msgspec

from chalicelib.clock import Clock
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item, JsonObject
from chalicelib.store.alternator.wire.requester import Requester

log = logging.getLogger(__name__)

PARTITION = "sweep"
SAVE_EVERY_S = 10.0
"""Who dies leaves so much to be done again."""
TRUSTED_S = 30.0
"""Who has not swept for so long looks where others have come to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of a pass. begun_ms: milliseconds since the epoch. rows: seen so far. position:
    behind what was seen; None at the beginning. ended_ms, took_s, read: of the round before: when
    it ended, how long it took, the rows it saw; None if there was none."""

    name: str
    number: int
    begun_ms: int
    rows: int = 0
    position: str | None = None
    ended_ms: int | None = None
    took_s: int | None = None
    read: int | None = None

    @classmethod
    def of(cls, item: Item) -> Self:
        name, _, number = item["processor"]["S"].partition("/")
        values: dict[str, Any] = msgspec.json.decode(item["round"]["S"])
        known = {key: value for key, value in values.items() if key in cls.__slots__}
        return cls(name=name, number=int(number), **known)

    @property
    def key(self) -> JsonObject:
        """In the table of heartbeats."""
        return {"fleet": {"S": PARTITION}, "processor": {"S": f"{self.name}/{self.number:09d}"}}

    @property
    def item(self) -> JsonObject:
        values = {name: value for name, value in asdict(self).items() if name not in _IN_KEY}
        return self.key | {"round": {"S": msgspec.json.encode(values).decode()}}

    def next(self, now_ms: int) -> "Round":
        took_s = max(0, now_ms - self.begun_ms) // 1000
        return Round(
            name=self.name,
            number=self.number + 1,
            begun_ms=now_ms,
            ended_ms=now_ms,
            took_s=took_s,
            read=self.rows,
        )


_IN_KEY = ("name", "number")


class Progress:
    """Of all passes. table: of heartbeats. All methods raise StoreUnavailable."""

    def __init__(self, requester: Requester, table: str, clock: Clock) -> None:
        self._requester = requester
        self._table = table
        self._clock = clock
        self._rounds: dict[str, Round] = {}
        self._used_s: dict[str, float] = {}
        self._saved_s: dict[str, float] = {}

    async def round(self, name: str, now_ms: int) -> Round:
        """The one that is under way, or a new one."""
        now_s = self._clock.monotonic_s()
        if name not in self._rounds or now_s > self._used_s[name] + TRUSTED_S:
            self._rounds[name] = await self._read(name, now_ms)
        self._used_s[name] = now_s
        if self._rounds[name].position is None:
            self._rounds[name] = replace(self._rounds[name], begun_ms=now_ms)
        return self._rounds[name]

    async def advance(self, name: str, position: str, rows: int) -> None:
        """So many more rows were seen, up to this position."""
        before, now_s = self._rounds[name], self._clock.monotonic_s()
        self._rounds[name] = replace(before, position=position, rows=before.rows + rows)
        self._used_s[name] = now_s
        if now_s >= self._saved_s.get(name, now_s - SAVE_EVERY_S) + SAVE_EVERY_S:
            await self._put(self._rounds[name])

    async def end(self, name: str, rows: int, now_ms: int) -> None:
        """The round is over, with so many more rows."""
        ended = replace(self._rounds[name], rows=self._rounds[name].rows + rows)
        following = ended.next(now_ms)
        await self._put(following)
        self._rounds[name] = following
        await self._delete(ended)
        text = "a round of the sweep has ended: %d rows of %s in %d s"
        extra = {"action": "sweep_round", "rows": ended.rows, "seconds": following.took_s}
        log.info(text, ended.rows, name, following.took_s, extra=extra)

    async def _read(self, name: str, now_ms: int) -> Round:
        """Rounds that are over are deleted: their row can have been written late."""
        found = [one for one in await stored(self._requester, self._table) if one.name == name]
        for old in found[:-1]:
            await self._delete(old)
        return found[-1] if found else Round(name=name, number=1, begun_ms=now_ms)

    async def _put(self, one: Round) -> None:
        await self._requester.decide(requests.put_row(self._table, one.item))
        self._saved_s[one.name] = self._clock.monotonic_s()

    async def _delete(self, one: Round) -> None:
        await self._requester.decide(requests.delete_row(self._table, one.key))


async def stored(requester: Requester, table: str) -> list[Round]:
    """What the table of heartbeats tells, by name and number. Raises StoreUnavailable."""
    items = requester.items(requests.query(table, "fleet", PARTITION))
    return rounds_of([item async for item in items])


def rounds_of(items: Iterable[Item]) -> list[Round]:
    """Of rows of the partition, by name and number."""
    return sorted(map(Round.of, items), key=lambda one: (one.name, one.number))
