"""Tasks put fast and directly: the rows and records that creates, and runs, would have left."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

from bench import lean
from chalicelib.config import Settings
from chalicelib.store.alternator import requests, time_index
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.time_index import Indexes
from chalicelib.task import Task

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

    def finished(self, send_ts_ms: int) -> Task:
        return self.run(self.task(send_ts_ms))[1]

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


def put(port: int, settings: Settings, tasks: Iterable[Task]) -> None:
    """Directory, rows, then records, as a create orders them."""
    indexes = Indexes(settings.table_prefix, settings.shards)
    rest = iter(tasks)
    while chunk := list(islice(rest, CHUNK)):
        named = {
            row: None
            for task in chunk
            for index, time_ms in _places(indexes, task)
            for row in index.directory_rows(time_ms, task.id)
        }
        _send(port, time_index.batches(named))
        _send(port, time_index.batches(row for task in chunk for row in indexes.rows(task)))
        _send(port, _records(f"{settings.table_prefix}tasks", chunk))


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
        finished = [replace(task, due_at_ms=None) for task in part]
        kept = {row[:3] for task in finished for row in indexes.rows(task)}
        rows = [row for task in part for row in indexes.rows(task) if row[:3] not in kept]
        cleaning = [lean.encoded(request) for request in time_index.batches(rows, delete=True)]
        requests_ = [request for chain in chains[start : start + BATCH] for request in chain]
        joined.append([*requests_, *cleaning])
    return joined


def _places(indexes: Indexes, task: Task) -> list[tuple[time_index.TimeIndex, int]]:
    if task.due_at_ms is None:
        return [(indexes.all, task.send_ts_ms)]
    return indexes.times(task)


def _records(table: str, tasks: Sequence[Task]) -> Iterator[Request]:
    for start in range(0, len(tasks), BATCH):
        records = [requests.encode_task(task) for task in tasks[start : start + BATCH]]
        yield requests.write_rows({table: records}, {})


def _send(port: int, batches: Iterable[Request]) -> None:
    if chains := [[lean.encoded(batch)] for batch in batches]:
        lean.send(port, chains, connections=4)
