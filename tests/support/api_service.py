"""The service as tests of the API see it: a store in memory, and a client of Chalice."""

import json
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from chalice.test import Client, HTTPResponse

import app as entry
from chalicelib import errors
from chalicelib.api.endpoints import Api
from chalicelib.api.settings import ApiSettings
from chalicelib.store.memory import MemoryStore, Tables
from chalicelib.task import Task
from local.settings import ROOT
from tests.support.fakes import FakeClock
from tests.support.hostile_requests import JSON

NOW_MS = 1_893_456_000_000
NOW = "2030-01-01T00:00:00.000Z"
KEYS = [
    "id", "type", "send_ts", "state", "processor", "attempt", "created_ts", "started_ts",
    "finished_ts", "lateness_ms", "result", "error", "request_id",
]  # fmt: skip

S = TypeVar("S", bound=MemoryStore)


class Service:
    """An Api on a store in memory, and a client that speaks to it through the app."""

    def __init__(self, settings: ApiSettings | None = None) -> None:
        self.settings = settings or ApiSettings()
        self.tables = Tables()
        self.clock = FakeClock(NOW_MS)
        self.store = self.use(MemoryStore(self.tables))
        self.http = Client(entry.app, project_dir=str(ROOT)).http

    def use(self, store: S) -> S:
        """From now on the Api is one on this store."""
        self.api = Api(store, self.clock, new_id=lambda: str(uuid.uuid4()), limits=self.settings)
        return store

    def create(self, *, key: str | None = None, **fields: Any) -> HTTPResponse:
        headers = JSON if key is None else {**JSON, "Idempotency-Key": key}
        body = {"type": "Baz", "send_ts": NOW, **fields}
        return self.http.post("/task", headers=headers, body=json.dumps(body).encode())

    def created(self, **fields: Any) -> Any:
        response = self.create(**fields)
        assert response.status_code == 201, response.body
        return response.json_body

    def listed(self, query: str = "") -> tuple[list[str], str | None]:
        response = self.http.get(f"/task?{query}" if query else "/task")
        assert response.status_code == 200, response.body
        assert list(response.json_body) == ["tasks", "cursor"]
        return [task["id"] for task in response.json_body["tasks"]], response.json_body["cursor"]

    def change(self, task_id: str, change: Callable[[Task], Task]) -> Task:
        self.tables.tasks[task_id] = change(self.tables.tasks[task_id])
        return self.tables.tasks[task_id]

    def claim(self, task_id: str) -> Task:
        now_ms = self.clock.now_ms()
        return self.change(
            task_id, lambda task: task.claimed(now_ms=now_ms, claim="c", processor="p")
        )


def expect_error(response: HTTPResponse, status: int, type: str) -> Any:
    """The one shape of every failure; returns its Details."""
    error = response.json_body
    assert (response.status_code, error and error.get("Type")) == (status, type), response.body
    assert list(error) == ["Code", "Message", "Type", "Details"]
    assert error["Code"] == status
    assert error["Message"] and isinstance(error["Details"], dict)
    return error["Details"]


def lambda_event(**given: Any) -> dict[str, Any]:
    """POST /task, as API Gateway hands it to Lambda."""
    return {
        "requestContext": {"httpMethod": "POST", "resourcePath": "/task"},
        "pathParameters": None,
        "multiValueQueryStringParameters": None,
        "stageVariables": None,
        **given,
    }


class TakesNoWrites(MemoryStore):
    """As a store whose disk is full. asked: how often a write was tried."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.error: errors.StoreUnavailable | None = errors.StoreReadOnly("the disk is full")
        self.asked = 0

    def check_writes(self) -> None:
        self.asked += 1
        if self.error:
            raise self.error


EXPLAINED = [
    "id", "type", "state", "now", "due", "reason", "message", "due_at", "seconds_until_due",
    "next_retry", "held_by", "lease_until", "shard", "owner", "hint_present", "processors",
    "attempts",
]  # fmt: skip


def explained(service: Service, task_id: str) -> Any:
    response = service.http.get(f"/task/{task_id}/explain")
    assert response.status_code == 200, response.body
    assert list(response.json_body) == EXPLAINED
    return response.json_body
