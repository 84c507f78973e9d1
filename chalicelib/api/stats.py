"""What the service does: statistics of processors, the backlog, and who is alive."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from chalicelib.api.stats_query import StatsQuery
from chalicelib.histogram import Histogram
from chalicelib.statistics import COUNTERS, Statistics, StatisticsPage, StatisticsRow, decoded
from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat, TaskFilter, TaskPage
from chalicelib.task import TaskState
from chalicelib.times import rfc3339

BACKLOG_MAX = 100
"""The backlog is counted up to this."""
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

K = TypeVar("K")


@dataclass(slots=True)
class Figures:
    """cells: by the beginning of a step and by type. is_complete: whether every row was read."""

    cells: dict[tuple[int, str], Statistics]
    is_complete: bool

    def by_type(self) -> Mapping[str, Statistics]:
        return _merged((type, one) for (_, type), one in sorted(self.cells.items(), key=_type_of))

    def by_step(self) -> Mapping[int, Statistics]:
        return _merged((start_ms, one) for (start_ms, _), one in self.cells.items())


def figures(query: StatsQuery, page: StatisticsPage) -> Figures:
    """What the rows come to."""
    found = Figures({}, page.is_complete)
    for row in page.rows:
        start_ms = row.start_ms - row.start_ms % query.step_ms
        for type, one in _types(row, found).items():
            if query.types is None or type in query.types:
                found.cells.setdefault((start_ms, type), Statistics()).merge(one)
    return found


def backlog_filter(query: StatsQuery, now_ms: int) -> TaskFilter:
    """Leads to tasks that are due and not started, the oldest first."""
    states = frozenset({TaskState.SCHEDULED})
    return TaskFilter(states=states, types=query.types, until_ms=now_ms + 1, limit=BACKLOG_MAX)


def stats_json(
    query: StatsQuery,
    found: Figures,
    *,
    now_ms: int,
    backlog: TaskPage,
    heartbeats: Iterable[Heartbeat],
    shards: int,
) -> dict[str, object]:
    """Every key is always there; the series has each step, also those in which nothing happened."""
    total, by_step = Statistics(), found.by_step()
    for one in by_step.values():
        total.merge(one)
    seconds = max(1.0, (min(now_ms, query.until_ms) - query.since_ms) / 1000)
    times = range(query.since_ms, query.until_ms, query.step_ms)
    nothing = Statistics()
    return {
        "now": rfc3339(now_ms),
        "since": rfc3339(query.since_ms),
        "until": rfc3339(query.until_ms),
        "step_s": query.step_ms // 1000,
        "is_complete": found.is_complete,
        "total": _figures_json(total),
        "per_second": {name: round(getattr(total, name) / seconds, 4) for name in COUNTERS},
        "by_type": {type: _figures_json(one) for type, one in found.by_type().items()},
        "series": [{"ts": rfc3339(ms), **_figures_json(by_step.get(ms, nothing))} for ms in times],
        "backlog": _backlog_json(backlog, now_ms),
        "processors": _processors_json(heartbeats, shards, now_ms),
    }


def _type_of(cell: tuple[tuple[int, str], Statistics]) -> str:
    return cell[0][1]


def _types(row: StatisticsRow, found: Figures) -> Mapping[str, Statistics]:
    try:
        return decoded(row.text)
    except ValueError:
        found.is_complete = False
        return {}


def _merged(parts: Iterable[tuple[K, Statistics]]) -> Mapping[K, Statistics]:
    merged: dict[K, Statistics] = {}
    for key, one in parts:
        merged.setdefault(key, Statistics()).merge(one)
    return merged


def _figures_json(one: Statistics) -> dict[str, object]:
    counters: dict[str, object] = {name: getattr(one, name) for name in COUNTERS}
    return {
        **counters,
        "lateness_ms": _histogram_json(one.lateness),
        "run_time_ms": _histogram_json(one.run_time),
    }


def _histogram_json(one: Histogram) -> dict[str, int | None]:
    """Percentiles within 6 %; null without values."""
    found = {name: one.percentile_ms(part) for name, part in PERCENTILES.items()}
    return {**found, "max": one.max_ms if one.count else None}


def _backlog_json(page: TaskPage, now_ms: int) -> dict[str, object]:
    due_ms = [task.due_at_ms for task in page.tasks if task.due_at_ms is not None]
    waiting_ms = [now_ms - ms for ms in due_ms if ms <= now_ms]
    return {
        "due": len(waiting_ms),
        "is_more": page.next is not None,
        "oldest_s": max(waiting_ms) / 1000 if waiting_ms else None,
    }


def _processors_json(
    heartbeats: Iterable[Heartbeat], shards: int, now_ms: int
) -> Sequence[Mapping[str, object]]:
    live = ownership.live_heartbeats(heartbeats, now_ms=now_ms)
    owned: dict[str, list[int]] = {row.processor: [] for row in live}
    for shard in range(shards) if live else ():
        owned[ownership.owner(shard, tuple(owned))].append(shard)
    return [_processor_json(row, owned[row.processor], now_ms) for row in live]


def _processor_json(row: Heartbeat, shards: Sequence[int], now_ms: int) -> Mapping[str, object]:
    is_known = row.places is not None and row.taken is not None
    return {
        "id": row.processor,
        "kind": row.kind,
        "host": row.host,
        "version": row.version,
        "seconds_since_heartbeat": max(0, now_ms - row.written_ms) / 1000,
        "places": row.places,
        "taken": row.taken,
        "free": max(0, (row.places or 0) - (row.taken or 0)) if is_known else None,
        "shards": shards,
        "held_back_s": row.held_back_s,
    }
