"""Whether each task has exactly the rows that it should have: a check of a whole store."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from chalicelib.clock import Clock, Sleep, pause
from chalicelib.config import Settings
from chalicelib.errors import UnreadableTask
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.lookup import rows_there, tasks_by_id
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.pruning import has_just_failed
from chalicelib.store.alternator.requests import Item, Request
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task, TaskState
from local.findings import Breach

PAGE_ROWS = 500
LOOK_AGAIN_S = 6.0
"""What seems wrong may be under way: processors delete rows up to 5 s after they are of no use."""

Key = tuple[str, str, str]
"""Table, slot and at of a row."""


@dataclass
class RowFindings:
    """tasks: those that clients can see. rows: those of tasks, without names."""

    tasks: int = 0
    rows: int = 0
    unreadable: int = 0
    breaches: list[Breach] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        return not self.breaches

    def line(self) -> str:
        counts = {
            kind: sum(breach.kind == kind for breach in self.breaches)
            for kind in ("missing", "surplus", "unnamed")
        }
        parts = [f"{self.tasks} tasks", f"{self.rows} rows"]
        parts += [f"{count} {kind}" for kind, count in counts.items()]
        if self.unreadable:
            parts.append(f"{self.unreadable} unreadable records")
        return f"{'kept' if self.is_kept else 'BROKEN'}: " + ", ".join(parts)


def check_rows(settings: Settings, clock: Clock, sleep: Sleep = pause) -> RowFindings:
    """Read every record and every row. Others may be at work meanwhile.

    Raises StoreUnavailable.
    """
    with closing(Client.connect(settings, clock)) as client:
        return StoreCheck(client, settings, clock).run(sleep)


class StoreCheck:
    """Of one store."""

    def __init__(self, client: Client, settings: Settings, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._tasks_table = f"{settings.table_prefix}tasks"
        self._indexes = Indexes(settings.table_prefix, settings.shards)
        self._unreadable: set[str] = set()

    def run(self, sleep: Sleep) -> RowFindings:
        stored = set(self._rows())
        seen, tasks, suspects = set[Key](), 0, set[str]()
        for task in self._tasks():
            tasks += task.state is not TaskState.DELETED
            needed = self._needed(task)
            if not all(row[:3] in stored for row in (*needed.rows, *needed.names)):
                suspects.add(task.id)
            seen.update(row[:3] for row in self._indexes.rows(task))
        surplus = [key for key in stored if "#" in key[2] and key not in seen]
        suspects.update(_id(key) for key in surplus)
        if suspects:
            sleep(LOOK_AGAIN_S)
        rows = sum("#" in key[2] for key in stored)
        breaches = list(self._breaches(suspects, surplus))
        return RowFindings(tasks, rows, len(self._unreadable), breaches)

    def _needed(self, task: Task) -> "Needed":
        """While a task runs its hint lies where it was due, wherever that was."""
        rows = self._indexes.rows(task)
        if task.state is TaskState.RUNNING:
            rows = [row for row in rows if row.table == self._indexes.table]
        return Needed(rows, self._indexes.names(task))

    def _breaches(self, suspects: Iterable[str], surplus: Iterable[Key]) -> Iterator[Breach]:
        """Judge those again by what the store says now."""
        tasks = self._read_tasks(suspects)
        for task in tasks.values():
            needed = self._needed(task)
            for kind, rows in (("missing", needed.rows), ("unnamed", needed.names)):
                there = self._there(rows)
                for row in rows:
                    if row[:3] not in there:
                        yield Breach(kind, task.id, f"{row.table} {row.slot} {row.at}")
        for key in sorted(self._there(Row(*key) for key in surplus)):
            if _id(key) not in self._unreadable and not self._may_stand(key, tasks.get(_id(key))):
                yield Breach("surplus", _id(key), " ".join(key))

    def _may_stand(self, key: Key, task: Task | None) -> bool:
        """Whether the task needs this row, or somebody is about to delete it."""
        if task is None:
            return False
        if key in {row[:3] for row in self._indexes.rows(task)}:
            return True
        if task.state is TaskState.RUNNING:
            return key[0] == self._indexes.schedule.table
        return has_just_failed(task, self._clock.now_ms())

    def _rows(self) -> Iterator[Key]:
        for table in (self._indexes.schedule.table, self._indexes.table):
            for item in scanned(self._client, table):
                yield table, item["slot"]["S"], item["at"]["S"]

    def _tasks(self) -> Iterator[Task]:
        for item in scanned(self._client, self._tasks_table):
            try:
                yield requests.decode_task(item)
            except UnreadableTask:
                self._unreadable.add(item["id"]["S"])

    def _read_tasks(self, ids: Iterable[str]) -> dict[str, Task]:
        found = self._client.run(tasks_by_id(self._client.requester, self._tasks_table, ids))
        self._unreadable |= {id for id, task in found.items() if task is None}
        return {id: task for id, task in found.items() if task is not None}

    def _there(self, rows: Iterable[Row]) -> set[Key]:
        """Those of these rows that exist."""
        return self._client.run(rows_there(self._client.requester, rows))


@dataclass(frozen=True)
class Needed:
    """What must be there for a task, as it is."""

    rows: list[Row]
    names: list[Row]


def scanned(client: Client, table: str) -> Iterator[Item]:
    """All of a table, in pages that are small enough for a busy store."""
    scan = requests.scan(table, 0, 1, None)
    return client.items(Request(scan.action, scan.body | {"Limit": PAGE_ROWS}))


def _id(key: Key) -> str:
    return key[2].partition("#")[2]
