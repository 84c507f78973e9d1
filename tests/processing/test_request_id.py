"""What is logged of an attempt has the id of the request that created its task."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.clock import SystemClock
from chalicelib.errors import StoreUnavailable
from chalicelib.log import Handler
from chalicelib.request_id import REQUEST_ID
from chalicelib.store.contract import Hint, Refused
from chalicelib.store.memory import MemoryQueue
from chalicelib.task import Task, TaskState
from chalicelib.task_types import Run
from tests.processing.test_processor import SHARDS, Bench, go

FIRST, SECOND = "request-1", "request-2"


async def telling(run: Run) -> str:
    logging.getLogger("handler").warning("for %s", run.task.request_id)
    raise ValueError("boom")


@pytest.fixture
def said() -> Iterator[list[tuple[object, object]]]:
    """Action, or text, and request id of each log line."""
    lines: list[tuple[object, object]] = []

    class Noting(Handler):
        def format(self, record: logging.LogRecord) -> str:
            found = vars(record)
            lines.append((found.get("action", record.getMessage()), found.get("request_id")))
            return ""

    handler, root = Noting(SystemClock()), logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def requested(bench: Bench, request_id: str | None, delay_s: float = 0.0) -> Task:
    (task,) = bench.add("telling", delay_s)
    bench.tables.tasks[task.id] = replace(task, request_id=request_id)
    return bench.tables.tasks[task.id]


def test_lines_of_an_attempt_have_it(said: list[tuple[object, object]]) -> None:
    bench = Bench({"telling": telling}, batch_size=1)
    tasks = [requested(bench, FIRST), requested(bench, SECOND, 0.1), requested(bench, None, 0.2)]
    go(30, bench)
    assert {bench.now(task).state for task in tasks} == {TaskState.FAILED}
    assert {bench.now(task).request_id for task in tasks} == {FIRST, SECOND, None}
    for request_id in (FIRST, SECOND):
        actions = [action for action, id in said if id == request_id]
        text = f"for {request_id}"
        assert actions == [text, "task_scheduled", text, "task_scheduled", text, "task_failed"]
    others = [action for action, id in said if id is None]
    assert others.count("for None") == 3
    assert others.count("task_failed") == 1
    assert REQUEST_ID.get() is None


def test_a_lost_lease_and_an_unknown_outcome_have_it(said: list[tuple[object, object]]) -> None:
    class Losing(MemoryQueue):
        answers: tuple[bool | None, ...] = (False, None)

        async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
            if not self.answers:
                return await super().settle(held, settled, until_s=until_s)
            answer, *left = self.answers
            self.answers = tuple(left)
            if answer is None:
                raise StoreUnavailable
            return answer

    bench = Bench({"telling": telling})
    requested(bench, FIRST)
    go(30, bench, queue=Losing(bench.tables, shards=SHARDS))
    assert {("lease_lost", FIRST), ("left", FIRST)} <= set(said)


def test_the_next_attempt_has_not_the_id_of_the_last_one(said: list[tuple[object, object]]) -> None:
    class Unclaimed(MemoryQueue):
        async def claim(self, hint: Hint, **how: Any) -> Task | Refused:
            if hint.id == last.id:
                raise StoreUnavailable
            return await super().claim(hint, **how)

    async def holding(run: Run) -> str:
        await asyncio.sleep(1)
        return await telling(run)

    bench = Bench({"telling": holding}, batch_size=1)
    requested(bench, FIRST)
    last = requested(bench, SECOND, delay_s=0.1)
    go(5, bench, queue=Unclaimed(bench.tables, shards=SHARDS))
    assert ("task_scheduled", FIRST) in said
    assert {id for action, id in said if action == "left"} == {None}
