"""Statistics of processors: rows beside their heartbeats.

partition <step>/<day>   rows <start>#<processor>#<part>, times as in `rows`
"""

from collections.abc import Iterator, Sequence

from chalicelib.statistics import StatisticsPage, StatisticsRow, Step
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import Item, JsonObject, Request
from chalicelib.store.alternator.rows import BATCH_MAX
from chalicelib.store.alternator.tables import PURGE_ATTRIBUTE
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester

DAY_MS = 86_400_000
PAGES = 12
"""So many pages are read at most, the latest rows first; of more than so many days one each."""
READ_TOGETHER = 8


class StatisticsRows:
    """The table of heartbeats, of which these are other partitions."""

    def __init__(self, requester: Requester, table: str) -> None:
        self._requester = requester
        self._table = table
        self._parallel = Parallel(READ_TOGETHER)

    async def put(self, rows: Sequence[StatisticsRow]) -> None:
        """See TaskQueue.put_statistics."""
        items = [_item(row) for row in rows]
        batches = [
            requests.write_rows({self._table: items[start : start + BATCH_MAX]}, {})
            for start in range(0, len(items), BATCH_MAX)
        ]
        await self._requester.write(batches, rank=Rank.CLEAN)

    async def read(self, step: Step, since_ms: int, until_ms: int) -> StatisticsPage:
        """See TaskStore.statistics."""
        days = range(rows.start_of(since_ms, DAY_MS), until_ms, DAY_MS)
        most = max(1, PAGES // max(1, len(days)))
        queries = [self._query(step, day, since_ms, until_ms) for day in days]
        parts = await self._parallel.map(lambda query: self._pages(query, most), queries)
        found = [row for part in parts for item in part[0] for row in _rows(step, item)]
        return StatisticsPage(found, all(is_complete for _, is_complete in parts))

    async def _pages(self, query: Request, most: int) -> tuple[Sequence[Item], bool]:
        """The items of the first pages, and whether these are all."""
        found: list[Item] = []
        following: Request | None = query
        for _ in range(most):
            if following is None:
                break
            items, following, _ = await self._requester.page(following, rank=Rank.LIST)
            found += items
        return found, following is None

    def _query(self, step: Step, day_ms: int, since_ms: int, until_ms: int) -> Request:
        low, high = rows.time_key(since_ms), rows.time_key(until_ms)
        return requests.query(
            self._table,
            "fleet",
            _partition(step, day_ms),
            between=(low, high),
            range_key="processor",
            descending=True,
        )


def _partition(step: Step, time_ms: int) -> str:
    return f"{step}/{rows.time_key(rows.start_of(time_ms, DAY_MS))}"


def _item(row: StatisticsRow) -> JsonObject:
    """A row is kept from its end on."""
    end_s = (row.start_ms + row.step.ms) // 1000
    return {
        "fleet": {"S": _partition(row.step, row.start_ms)},
        "processor": {"S": f"{rows.time_key(row.start_ms)}#{row.processor}#{row.part}"},
        "statistics": {"S": row.text},
        PURGE_ATTRIBUTE: {"N": str(end_s + row.step.keep_s)},
    }


def _rows(step: Step, item: Item) -> Iterator[StatisticsRow]:
    """The row; none if this version cannot read it."""
    time, _, name = item["processor"]["S"].partition("#")
    processor, _, part = name.rpartition("#")
    if part.isdigit() and "statistics" in item:
        text = item["statistics"]["S"]
        yield StatisticsRow(step, rows.time_of(time), processor, int(part), text)
