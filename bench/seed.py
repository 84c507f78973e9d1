"""Tasks put fast and directly: the rows and records that creates, and runs, would have left."""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

from bench import lean
from chalicelib.config import Settings
from chalicelib.store.alternator import density, requests, rows, timeline
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.timeline import TimeBucket
from chalicelib.task import Task, TaskState

BATCH = 25
CHUNK = 5_000
RUN_MS = 4


class Maker:
    """Makes tasks whose ids follow from a seed, so that runs shard them alike."""

    def __init__(self, now_ms: int, seed: int = 0) -> None:
        self._now_ms = now_ms
        self._rng = Random(seed)

    def task(self, send_ts_ms: int, type: str = "Baz") -> Task:
        now_ms = min(self._now_ms, send_ts_ms)
        return Task.new(
            id=self._id(), type=type, send_ts_ms=send_ts_ms, now_ms=now_ms, token=self._id()
        )

    def finished(self, send_ts_ms: int, type: str = "Baz") -> Task:
        return self.run(self.task(send_ts_ms, type))[1]

    def failed(self, send_ts_ms: int) -> Task:
        held, _ = self.run(self.task(send_ts_ms))
        return held.failed("no", now_ms=send_ts_ms + RUN_MS)

    def run(self, task: Task) -> tuple[Task, Task]:
        """The task as a processor holds it, and as it settles it."""
        assert task.due_at_ms is not None
        held = task.claimed(now_ms=task.due_at_ms, claim=self._id(), processor=self._id())
        started = held.started(task.due_at_ms + 1)
        return held, started.completed(
            f"{task.type} {self._rng.randrange(344)}", now_ms=task.due_at_ms + RUN_MS
        )

    def _id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


class Filling:
    """Places for tasks: a bucket is opened after as many rows as it is on average by creates."""

    def __init__(self, indexes: Indexes, rows: Sequence[int] = density.ROWS) -> None:
        self.opened: dict[TimeBucket, None] = {}
        self._indexes = indexes
        self._rows = rows
        self._counts: Counter[TimeBucket] = Counter()

    def open(self, level: int, time_ms: int) -> None:
        """From now on, rows of this time are put at this level."""
        self.opened[self._indexes.all.path(level, time_ms)[-1]] = None

    def placed(self, task: Task) -> Task:
        level, time_ms = 0, task.send_ts_ms
        for bucket in self._indexes.all.path(timeline.DEEPEST, time_ms):
            if bucket not in self.opened:
                self._counts[bucket] += 1
                if self._counts[bucket] >= self._rows[level]:
                    self.open(bucket.level, time_ms)
                break
            level = bucket.level
        task = self._indexes.placed(task, level)
        return self._indexes.placed_failed(task, 0) if task.state is TaskState.FAILED else task


def placed(settings: Settings, tasks: Iterable[Task]) -> list[Task]:
    """Tasks with the places that creates would have given them."""
    filling = Filling(Indexes(settings.table_prefix, settings.shards))
    return [filling.placed(task) for task in tasks]


def put(port: int, settings: Settings, tasks: Iterable[Task]) -> None:
    """Names, rows, then records, as a create orders them."""
    indexes = Indexes(settings.table_prefix, settings.shards)
    filling, rest = Filling(indexes), iter(tasks)
    while chunk := list(islice(rest, CHUNK)):
        made = [task if task.place else filling.placed(task) for task in chunk]
        buckets = dict.fromkeys(bucket for task in made for bucket in indexes.buckets(task))
        _send(port, rows.batches(row for bucket in buckets for row in bucket.names))
        _send(port, rows.batches(row for task in made for row in indexes.rows(task)))
        _send(port, _records(f"{settings.table_prefix}tasks", made))
    _send(port, rows.batches(row for bucket in filling.opened for row in bucket.names))


def runs(settings: Settings, maker: Maker, tasks: Sequence[Task]) -> list[lean.Chain]:
    """For each task the claim and the completion that its processor would send."""
    table = f"{settings.table_prefix}tasks"
    chains: list[lean.Chain] = []
    for task in tasks:
        held, settled = maker.run(task)
        assert held.claim and held.processor and task.due_at_ms is not None
        claim = requests.claim(
            table, task.id, claim=held.claim, processor=held.processor, now_ms=task.due_at_ms
        )
        chains.append([lean.encoded(r) for r in (claim, requests.change(table, held, settled))])
    return chains


def with_cleaning(
    settings: Settings, tasks: Sequence[Task], chains: Sequence[lean.Chain]
) -> list[lean.Chain]:
    """The same, and after each 25 tasks the deletion of their hints and `open` rows."""
    indexes = Indexes(settings.table_prefix, settings.shards)
    joined: list[lean.Chain] = []
    for start in range(0, len(tasks), BATCH):
        part = tasks[start : start + BATCH]
        finished = [replace(task, state=TaskState.COMPLETED, due_at_ms=None) for task in part]
        gone = [row for task in finished for row in indexes.obsolete(task)]
        gone += [indexes.hint_row(task) for task in part]
        cleaning = [lean.encoded(request) for request in rows.batches(gone, delete=True)]
        requests_ = [request for chain in chains[start : start + BATCH] for request in chain]
        joined.append([*requests_, *cleaning])
    return joined


def _records(table: str, tasks: Sequence[Task]) -> Iterator[Request]:
    for start in range(0, len(tasks), BATCH):
        records = [requests.encode_task(task) for task in tasks[start : start + BATCH]]
        yield requests.write_rows({table: records}, {})


def _send(port: int, batches: Iterable[Request]) -> None:
    if chains := [[lean.encoded(batch)] for batch in batches]:
        lean.send(port, chains, connections=4)
