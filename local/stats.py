"""Statistics as lines of text, for `python -m local task stats`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from chalicelib.statistics import COUNTERS
from client.answers import Backlog, Figures, Stats

BARS = "▁▂▃▄▅▆▇█"
WIDTH_MAX = 60
PROCESSOR_COLUMNS = ("id", "kind", "host", "version", "taken", "places", "shards")


def sparkline(values: Sequence[int | None], merge: Callable[[Sequence[int]], int] = sum) -> str:
    """One bar for each value, or for several of them; a blank where there are none.

    merge: makes one of several. The highest bar stands for the largest value.
    """
    size = -(-len(values) // WIDTH_MAX) or 1
    parts = [
        [value for value in values[start : start + size] if value is not None]
        for start in range(0, len(values), size)
    ]
    merged = [merge(part) if part else None for part in parts]
    top = max((value for value in merged if value is not None), default=0)
    return "".join(_bar(value, top) for value in merged)


def lines(stats: Stats, *, is_terminal: bool) -> Iterator[str]:
    """All but the processors. is_terminal: with sparklines."""
    yield f"{stats['since']} to {stats['until']}, by {stats['step_s']} s"
    if not stats["is_complete"]:
        yield "incomplete: there is more than one answer reads"
    series = stats["series"]
    for name in COUNTERS:
        bars = sparkline([_count(step, name) for step in series]) if is_terminal else ""
        total, rate = _count(stats["total"], name), stats["per_second"][name]
        yield f"{name:<12}{total:>9}{rate:>11.3f}/s  {bars}".rstrip()
    for name in ("lateness", "run_time"):
        bars = sparkline([_p99(step, name) for step in series], max) if is_terminal else ""
        values = cast(Mapping[str, Any], stats["total"])[f"{name}_ms"]
        told = "  ".join(f"{part} {_ms(ms)}" for part, ms in values.items())
        yield f"{name:<12}{told}  {bars}".rstrip()
    yield f"{'backlog':<12}{_backlog(stats['backlog'])}"


def processor_rows(stats: Stats) -> Sequence[Mapping[str, Any]]:
    """For a table: shards as a number."""
    return [{**row, "shards": len(row["shards"])} for row in stats["processors"]]


def _backlog(backlog: Backlog) -> str:
    if backlog["oldest_s"] is None:
        return "nothing is due"
    more = " or more" if backlog["is_more"] else ""
    return f"{backlog['due']}{more} due, the oldest for {backlog['oldest_s']:.1f} s"


def _bar(value: int | None, top: int) -> str:
    if value is None:
        return " "
    return BARS[-(-value * (len(BARS) - 1) // top)] if top else BARS[0]


def _count(figures: Figures, name: str) -> int:
    return int(cast(Mapping[str, Any], figures)[name])


def _p99(figures: Figures, name: str) -> int | None:
    found: int | None = cast(Mapping[str, Any], figures)[f"{name}_ms"]["p99"]
    return found


def _ms(ms: int | None) -> str:
    return "-" if ms is None else f"{ms} ms"
