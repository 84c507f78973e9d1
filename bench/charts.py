"""Draws throughput and lateness from what `make bench` wrote: `charts.py JSON FOLDER`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

OURS, LEAN = "#0b7a75", "#b8c4c2"
COLOURS = {"celery": "#d1603d", "dramatiq": "#8d6a9f"}
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "svg.hashsalt": "scheduler",
}


def main() -> None:
    measured, folder = Path(sys.argv[1]), Path(sys.argv[2])
    data = json.loads(measured.read_text())
    rows = {row["name"]: row for row in data["rows"]}
    plt.rcParams.update(STYLE)
    about = (
        f"{data['about']['tasks']:,} tasks, {data['about']['cores']} cores shared with the store"
    )
    if "ceiling" in rows:
        throughput(rows, about, folder / "throughput.svg")
    if "lateness p99, 50/s" in rows:
        lateness(rows, folder / "lateness.svg")


def throughput(rows: dict, about: str, path: Path) -> None:
    """Tasks a second of one burst."""
    bars = [("scheduler", rows["ceiling"]["figure"], OURS)]
    for name, colour in COLOURS.items():
        if f"burst, {name}" in rows:
            bars.append((name, rows[f"burst, {name}"]["yardstick_figure"], colour))
    for name, label in (
        ("ceiling, cleaning", "bare client,\nwith clean-up"),
        ("ceiling", "bare client,\nclaim + complete"),
    ):
        bars.append((label, rows[name]["yardstick_figure"], LEAN))
    figure, axes = plt.subplots(figsize=(7, 0.55 * len(bars) + 1.2), layout="constrained")
    labels, values, colours = zip(*reversed(bars), strict=True)
    drawn = axes.barh(labels, values, color=colours, height=0.62)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=4)
    axes.set_title(f"A burst: {about}")
    axes.set_xlabel("tasks per second (more is better)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    save(figure, path)


def lateness(rows: dict, path: Path) -> None:
    """Which share of tasks had started how late, at 50 a second."""
    lines = [("scheduler", rows["lateness p99, 50/s"], OURS)]
    for name, colour in COLOURS.items():
        if f"lateness p99, {name}" in rows:
            lines.append((name, rows[f"lateness p99, {name}"], colour))
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for name, row, colour in lines:
        late = sorted(max(0.5, ms) for ms in row["details"]["lateness_ms"])
        shares = [100 * (number + 1) / len(late) for number in range(len(late))]
        axes.step(late, shares, where="post", color=colour, linewidth=2, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
    axes.set_xlabel("start after send_ts, milliseconds (less is better)")
    axes.set_ylabel("tasks started, %")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.25)
    axes.set_title("Lateness at 50 tasks per second")
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main()
