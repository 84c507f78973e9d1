"""The views' writes and reads of tasks: create, get, delete, run again."""

import contextlib
from collections.abc import Sequence

from chalicelib.errors import (
    SchedulerError,
    StoreUnavailable,
    TaskExists,
    TaskNotFailed,
    TaskNotFound,
    TaskRunning,
)
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.index_rows import IndexRows
from chalicelib.store.alternator.lookup import tasks_by_id
from chalicelib.store.alternator.outcome import ConditionFailed
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.task import UNFINISHED, Task, TaskState


class Records:
    """These methods of TaskStore, asynchronous. table: of the tasks."""

    def __init__(
        self, requester: Requester, rows: IndexRows, parallel: Parallel, table: str
    ) -> None:
        self._requester = requester
        self._rows = rows
        self._parallel = parallel
        self._table = table

    async def create(self, task: Task) -> Task:
        deadline_s = self._requester.deadline_s()
        (placed,) = await self._rows.put([task], deadline_s)
        return await self._put(placed, deadline_s)

    async def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
        """Known ones are found first: no rows are put again that may have been taken away."""
        deadline_s = self._requester.deadline_s()
        ids = [task.id for task in tasks]
        try:
            known = await tasks_by_id(self._requester, self._table, ids, deadline_s=deadline_s)
            new = [task for task in tasks if known.get(task.id) is None]
            placed = {task.id: task for task in await self._rows.put(new, deadline_s)}
        except SchedulerError as error:
            return [error] * len(tasks)

        async def created(task: Task) -> Task | SchedulerError:
            try:
                if (stored := known.get(task.id)) is not None:
                    return _same_create(task, stored)
                return await self._put(placed[task.id], deadline_s)
            except SchedulerError as error:
                return error

        return await self._parallel.map(created, tasks)

    async def get(self, task_id: str) -> Task:
        answer = await self._requester.decide(requests.get(self._table, task_id))
        return _there(task_id, requests.decode_task(answer["Item"]) if "Item" in answer else None)

    async def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        """The sweep deletes the rows that a crash or the store keeps from us."""
        request = requests.delete(self._table, task_id, now_ms=now_ms, token=token)
        try:
            before = (await self._requester.decide(request, key=task_id))["Attributes"]
        except ConditionFailed as refused:
            if not requests.was_deleted(refused.item, token):
                raise _not_deletable(task_id, refused.task()) from None
            return
        with contextlib.suppress(StoreUnavailable):
            await self._rows.delete(requests.decode_task(before))

    async def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        """Its hint and its `open` row are put before. Afterwards `open` is put again: who deletes
        this row of a failed task looks at the task once more, and puts it again if it was run
        again before that look."""
        deadline_s = self._requester.deadline_s()
        failed = await self.get(task_id)
        while failed.token != token:
            if failed.state is not TaskState.FAILED:
                raise TaskNotFailed(failed)
            retried = failed.retried(now_ms=now_ms, token=token)
            await self._rows.put_again([retried], deadline_s)
            request = requests.retry(self._table, failed, retried)
            try:
                await self._requester.decide(request, key=task_id, deadline_s=deadline_s)
            except ConditionFailed as refused:
                failed = _there(task_id, refused.task())
                continue
            failed = retried
        await self._put_open_again(failed)
        return failed

    async def _put(self, task: Task, deadline_s: float) -> Task:
        request = requests.create(self._table, task)
        try:
            await self._requester.decide(request, key=task.id, deadline_s=deadline_s)
        except ConditionFailed as refused:
            return _same_create(task, requests.decode_task(refused.item or {}))
        return task

    async def _put_open_again(self, task: Task) -> None:
        """The slow sweep puts what the store keeps from us."""
        if task.state in UNFINISHED:
            with contextlib.suppress(StoreUnavailable):
                await self._rows.put_open_again([task])


def _there(task_id: str, task: Task | None) -> Task:
    """Raises TaskNotFound if there is no task any more."""
    if task is None or task.state is TaskState.DELETED:
        raise TaskNotFound(id=task_id)
    return task


def _not_deletable(task_id: str, task: Task | None) -> Exception:
    if task is not None and task.state is TaskState.RUNNING:
        return TaskRunning(task)
    return TaskNotFound(id=task_id)


def _same_create(task: Task, stored: Task) -> Task:
    """What stands under the id of a task to create. Raises TaskExists if another create made it."""
    if stored.token != task.token:
        raise TaskExists(stored)
    return stored
