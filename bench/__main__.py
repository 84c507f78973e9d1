"""`python -m bench [PART ...]`: measure, print one table, and write it as JSON."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import (
    api,
    growth,
    lateness,
    lists,
    machine,
    peers,
    recovery,
    report,
    retention,
    standing,
    throughput,
)
from bench.drive import Options
from bench.machine import Broken
from bench.report import Row
from local.settings import ROOT

PARTS: Mapping[str, Callable[[Options], list[Row]]] = {
    "burst": throughput.measure,
    "latency": lateness.measure,
    "recovery": recovery.measure,
    "growth": growth.measure,
    "retention": retention.measure,
    "idle": standing.idle,
    "memory": standing.memory,
    "create": api.create,
    "lists": lists.measure,
    "cold": api.cold,
}
LATEST = ROOT / ".bench" / "latest.json"


def main() -> int:
    options = _parser().parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        print(f"bench: no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = Options(
        tasks=options.tasks,
        rounds=options.rounds,
        spread_s=options.seconds,
        peers=options.peers or os.environ.get("PEERS") == "1",
        full=options.full or os.environ.get("FULL") == "1",
        lock=options.lock,
    )
    try:
        return _run(options.parts or list(PARTS), chosen, options.json)
    except Broken as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _run(parts: list[str], options: Options, path: Path) -> int:
    if options.peers:
        peers.must_be_there()
    about = machine.about() | {"tasks": options.tasks, "rounds": options.rounds, "parts": parts}
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    print(f"bench: {about['cpu']}, {about['cores']} cores, load average {load}", flush=True)
    started_s, rows = time.monotonic(), list[Row]()
    for part in parts:
        rows += PARTS[part](options)
        report.write(path, rows, about | {"seconds": time.monotonic() - started_s})
        print(f"bench: {part} done after {time.monotonic() - started_s:.0f} s", flush=True)
    print(f"\n{report.table(rows)}\n\nwritten to {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--json", type=Path, default=LATEST, metavar="PATH")
    parser.add_argument("--tasks", type=int, default=10_000, metavar="N", help="in a burst")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of what is compared")
    parser.add_argument("--seconds", type=float, default=30.0, help="of tasks that come one by one")
    parser.add_argument("--peers", action="store_true", help="celery and dramatiq too (PEERS=1)")
    parser.add_argument("--full", action="store_true", help="a million tasks too (FULL=1)")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="to take turns with other runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
