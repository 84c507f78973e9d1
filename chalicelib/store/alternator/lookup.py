"""Tasks by their ids, and which rows exist."""

from collections.abc import Iterable

from chalicelib.errors import UnreadableTask
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import Task


async def tasks_by_id(
    requester: Requester,
    table: str,
    ids: Iterable[str],
    *,
    deadline_s: float | None = None,
    rank: Rank | None = None,
) -> dict[str, Task | None]:
    """These tasks as last committed, tombstones included; missing ones are left out.

    None stands for a record of a newer version, which this one cannot read.
    """
    keys: list[Item] = [{"id": {"S": id}} for id in dict.fromkeys(ids)]
    tasks: dict[str, Task | None] = {}
    for item in await requester.get_items(table, keys, deadline_s=deadline_s, rank=rank):
        try:
            tasks[item["id"]["S"]] = requests.decode_task(item)
        except UnreadableTask:
            tasks[item["id"]["S"]] = None
    return tasks


async def rows_there(requester: Requester, wanted: Iterable[Row]) -> set[tuple[str, str, str]]:
    """Which of these rows exist, by table, slot and at."""
    by_table: dict[str, dict[tuple[str, str, str], Item]] = {}
    for row in wanted:
        by_table.setdefault(row.table, {})[row[:3]] = row.key
    found: set[tuple[str, str, str]] = set()
    for table, keys in by_table.items():
        items = await requester.get_items(table, [*keys.values()])
        found |= {(table, item["slot"]["S"], item["at"]["S"]) for item in items}
    return found
