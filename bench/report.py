"""What a measurement found: a row for people, and the same as data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

MET = {True: "met", False: "NOT MET", None: "-"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    yardstick: what it is compared with, measured in the same run. met: None if nothing was there
    to judge it by. note: what the figure means. details: all that was measured for it.
    """

    name: str
    what: str
    figure: float
    unit: str
    goal: str
    met: bool | None
    yardstick: str = ""
    yardstick_figure: float | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.figure / self.yardstick_figure if self.yardstick_figure else None


def table(rows: Sequence[Row]) -> str:
    """Aligned text, one line a row, and the notes below."""
    head = ("row", "figure", "yardstick", "ratio", "goal", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    notes = [f"{row.name}: {row.what}. {row.note}".rstrip() for row in rows]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:], "", *notes])


def _cells(row: Row) -> tuple[str, ...]:
    yardstick = row.yardstick
    if row.yardstick_figure is not None:
        yardstick = f"{row.yardstick} {_number(row.yardstick_figure)}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    figure = f"{_number(row.figure)} {row.unit}"
    return (row.name, figure, yardstick, ratio, row.goal, MET[row.met])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"about": dict(about), "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n")


def middle(values: Sequence[float]) -> float:
    return float(median(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are at or below."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))])
