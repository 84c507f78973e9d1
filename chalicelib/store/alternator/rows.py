"""Rows that lead to tasks, in tables of plain puts and deletes.

    partition <slot>   rows <time>#<id>, one a task; and rows that name further partitions

Keys sort as text by (time, id).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item, JsonObject
from chalicelib.store.contract import Position

YEAR_ONE_MS = -62_135_596_800_000
"""Keys count from here, so that every time from year 1 to 9999 is 15 digits and sorts as text."""
FIRST, LAST = "0" * 15, "9" * 15
"""Bounds around all times."""
BATCH_MAX = 25
"""Rows that one request can put or delete."""


class Row(NamedTuple):
    """One row: where it is, and what it holds beside its key."""

    table: str
    slot: str
    at: str
    task_type: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it names a partition."""
        return "#" not in self.at

    @property
    def key(self) -> JsonObject:
        return {"slot": {"S": self.slot}, "at": {"S": self.at}}

    @property
    def item(self) -> JsonObject:
        return self.key | ({"type": {"S": self.task_type}} if self.task_type else {})


def time_key(time_ms: int) -> str:
    return f"{time_ms - YEAR_ONE_MS:015d}"


def at(time_ms: int, task_id: str) -> str:
    return f"{time_key(time_ms)}#{task_id}"


def time_of(at: str) -> int:
    return int(at[:15]) + YEAR_ONE_MS


def start_of(time_ms: int, span_ms: int) -> int:
    """Start of the span that holds this time, in milliseconds since the epoch."""
    return time_ms - (time_ms - YEAR_ONE_MS) % span_ms


def position_of(at: str) -> Position:
    return Position(time_of(at), at[16:])


def at_of(item: Item) -> str:
    text: str = item["at"]["S"]
    return text


def batches(rows: Iterable[Row], *, delete: bool = False) -> Iterator[requests.Request]:
    """Requests that put or delete these rows, each once."""
    unique = list({row[:3]: row for row in rows}.values())
    for start in range(0, len(unique), BATCH_MAX):
        tables: dict[str, list[Item]] = {}
        for row in unique[start : start + BATCH_MAX]:
            tables.setdefault(row.table, []).append(row.key if delete else row.item)
        yield requests.write_rows({}, tables) if delete else requests.write_rows(tables, {})
