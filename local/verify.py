"""`python -m local verify LEDGER...`: was the promise kept? Says in one line what it found. With
`--rows`: whether each task of the store has exactly the rows that it should have, in a line too.

Exit 0 if it was kept, 1 if it was broken (the first breaches go to stderr), 2 for input that
cannot be used.
"""

import argparse
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from chalicelib.clock import Clock, SystemClock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError, UnreadableTask
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task
from local.evidence import DEATH, STORE_EVENTS, Death, Event, Evidence, Slow
from local.findings import Findings
from local.judge import judge
from local.store_check import RowFindings, check_rows, scanned

BEGINNING = '{"event": '
BREACHES_SHOWN = 20


class Unusable(Exception):
    """The input cannot be judged; the message says which and why."""


@dataclass
class Ledgers:
    """Everything that stands in some ledgers. torn: lines whose writer was killed
    before their end."""

    events: list[Event] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    slow: list[Slow] = field(default_factory=list)
    torn: int = 0

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Self:
        """All of them. Raises Unusable."""
        ledgers = cls()
        for path in paths:
            ledgers.read(path)
        return ledgers

    def read(self, path: Path) -> None:
        """Raises Unusable."""
        lines = _read(path).split("\n")
        last = lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                self._add(json.loads(self._whole(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise Unusable(f"{path}, line {number}: no event of a ledger: {error!r}") from None
        self.torn += bool(last)

    def _whole(self, line: str) -> str:
        """Without the beginning of a line that another process then wrote behind."""
        start = line.rfind(BEGINNING)
        self.torn += start > 0
        return line[max(0, start) :]

    def _add(self, data: Any) -> None:
        if data["event"] == DEATH:
            self.deaths.append(Death(data["pid"], data["at_s"]))
        elif data["event"] in STORE_EVENTS:
            self.slow.append(Slow(data["event"], data["pid"], data["at_s"]))
        else:
            self.events.append(Event.of(data))


@dataclass
class Records:
    """Every record of the store. unreadable: ids of those that a newer version wrote."""

    tasks: dict[str, Task] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)


def verify(
    ledgers: Iterable[Path],
    settings: Settings,
    clock: Clock,
    *,
    acknowledged: Path | None = None,
    lines: Sequence[Path] = (),
    grace_s: float = 30.0,
    recovered_within_s: float | None = None,
) -> Findings:
    """Read and judge. Raises Unusable."""
    read = Ledgers.of(ledgers)
    ids = _ids(acknowledged) if acknowledged else ()
    printed = [line for path in lines for line in _read(path).split("\n")[:-1]] if lines else None
    records = _records(settings, clock)
    return judge(
        Evidence(
            events=read.events,
            deaths=read.deaths,
            slow=read.slow,
            torn=read.torn,
            tasks=records.tasks,
            unreadable=records.unreadable,
            acknowledged=ids,
            lines=printed,
            now_ms=clock.now_ms(),
            grace_s=grace_s,
            recovered_within_s=recovered_within_s,
        )
    )


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        all_findings = list(_found(options, Settings.from_env(_env(options)), SystemClock()))
    except (Unusable, SchedulerError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    for findings in all_findings:
        for breach in findings.breaches[:BREACHES_SHOWN]:
            print(f"{breach.kind}: {breach.task}: {breach.what}", file=sys.stderr)
        print(findings.line())
    return 0 if all(findings.is_kept for findings in all_findings) else 1


def _found(
    options: argparse.Namespace, settings: Settings, clock: Clock
) -> Iterator[Findings | RowFindings]:
    if not options.ledgers and not options.rows:
        raise Unusable("name a LEDGER, or --rows, or both")
    if options.ledgers:
        yield verify(
            options.ledgers,
            settings,
            clock,
            acknowledged=options.acknowledged,
            lines=options.lines,
            grace_s=options.grace,
            recovered_within_s=options.recovered_within,
        )
    if options.rows:
        yield check_rows(settings, clock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local verify",
        description="Tell from ledgers and the store whether the promise was kept.",
        epilog="Exit 0: kept. 1: broken. 2: input that cannot be used.",
    )
    parser.add_argument("ledgers", nargs="*", type=Path, metavar="LEDGER")
    parser.add_argument("--rows", action="store_true", help="check the rows that lead to tasks")
    parser.add_argument("--endpoints", metavar="URLS", help="in place of ALTERNATOR_ENDPOINTS")
    parser.add_argument("--prefix", metavar="TEXT", help="in place of TABLE_PREFIX")
    parser.add_argument(
        "--acknowledged", type=Path, metavar="FILE", help="ids that clients were told, one a line"
    )
    parser.add_argument(
        "--lines", type=Path, action="append", default=[], metavar="FILE", help="what was printed"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="a task due for longer and not finished is lost (default: %(default)s)",
    )
    parser.add_argument(
        "--recovered-within",
        type=_seconds,
        metavar="S",
        help="most seconds from a death in a ledger to the next claim (default: any)",
    )
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _env(options: argparse.Namespace) -> dict[str, str]:
    given = {"ALTERNATOR_ENDPOINTS": options.endpoints, "TABLE_PREFIX": options.prefix}
    return {**os.environ, **{name: value for name, value in given.items() if value is not None}}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read: {error}") from None


def _ids(path: Path) -> list[str]:
    ids = _read(path).split()
    for number, id in enumerate(ids, 1):
        try:
            uuid.UUID(id)
        except ValueError:
            raise Unusable(f"{path}, line {number}: {id!r} is no id of a task") from None
    return ids


def _records(settings: Settings, clock: Clock) -> Records:
    """All of them. Raises Unusable if the store does not answer."""
    records = Records()
    with closing(Client.connect(settings, clock)) as client:
        try:
            for item in scanned(client, f"{settings.table_prefix}tasks"):
                _keep(item, records)
        except SchedulerError as error:
            raise Unusable(f"the store cannot be read: {error}") from error
    return records


def _keep(item: Item, records: Records) -> None:
    try:
        task = requests.decode_task(item)
    except UnreadableTask:
        records.unreadable.add(item["id"]["S"])
    else:
        records.tasks[task.id] = task
