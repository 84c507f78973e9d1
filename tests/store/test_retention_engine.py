"""A store on an engine, of old and new tasks: the check of the whole store after the sweep."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench import seed
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task
from local.store_check import StoreCheck
from tests.support.profile import CheckedTransport

pytestmark = pytest.mark.wall_clock

DAY_MS = 86_400_000
OLD, LATE, PENDING = 150, 20, 40
SHARE = 300
"""Rows a step."""


class Ahead(SystemClock):
    """By so many milliseconds."""

    by_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.by_ms


def made(now_ms: int) -> Sequence[Task]:
    """Finished ones of 40 days, in partitions of their own; late ones that were due as long ago;
    and pending ones."""
    maker, old_ms = seed.Maker(now_ms, seed=1), now_ms - 40 * DAY_MS
    old = [maker.finished(old_ms + n * 60_000) for n in range(OLD)]
    late = [
        replace(maker.finished(now_ms - 3_600_000), send_ts_ms=old_ms + n * 60_000)
        for n in range(LATE)
    ]
    return [*old, *late, *(maker.task(now_ms + DAY_MS + n) for n in range(PENDING))]


def test_exactly_the_right_tasks_and_rows_are_left(client: Client, settings: Settings) -> None:
    clock = Ahead()
    now_ms = clock.now_ms()
    indexes = Indexes(settings.table_prefix, settings.shards)
    tasks = [indexes.placed(task, 2) for task in made(now_ms)]
    for task in tasks:
        for request in rows.batches([*indexes.names(task), *indexes.rows(task)]):
            client.decide(request)
        client.decide(requests.create(f"{settings.table_prefix}tasks", task))
    check = StoreCheck(client, settings, clock)
    assert check.run(lambda _: None).is_kept, "before"

    async def sweep(now_ms: int) -> None:
        """Two of the fleet, side by side: of one row each may note that the other deleted it."""
        transports = [CheckedTransport.open(settings, clock) for _ in range(2)]
        queues = [
            AlternatorTaskQueue(
                one, clock, prefix=settings.table_prefix, shards=4, retention_days=30
            )
            for one in transports
        ]
        for _ in range(12):
            await asyncio.gather(*(queue.sweep_some(SHARE, now_ms=now_ms) for queue in queues))
        for queue in queues:
            await queue.close()

    for minute in range(3):
        clock.by_ms = minute * 60_000
        asyncio.run(sweep(clock.now_ms()))
    findings = check.run(lambda _: None)
    assert findings.is_kept, findings.breaches
    assert findings.tasks == LATE + PENDING
    left = client.get_items(f"{settings.table_prefix}tasks", [{"id": {"S": t.id}} for t in tasks])
    assert {item["id"]["S"] for item in left} == {task.id for task in tasks[OLD:]}
