"""The whole service with API keys: one request, followed through the logs of API and worker."""

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.local.test_local import Run, linux_only, start, wait_for
from tests.support.keys import ENTRIES, READ, WRITE, bearer

__all__ = ["start"]

pytestmark = [linux_only, pytest.mark.own_engine, pytest.mark.wall_clock]


def post(run: Run, headers: dict[str, str]) -> tuple[int, Any]:
    body = json.dumps({"type": "Bar", "send_ts": "2020-01-01T00:00:00Z"})
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=10)
    connection.request("POST", "/task", body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_request_is_known_by_its_id_up_to_its_attempts(start: Callable[..., Run]) -> None:
    run = start(API_KEYS=",".join(ENTRIES), BAR_URL="http://127.0.0.1:9/", TICK="off")
    run.wait_ready()
    assert post(run, {})[0] == 401
    assert post(run, bearer(READ))[0] == 403
    status, task = post(run, {**bearer(WRITE), "X-Request-Id": "order-17"})
    assert (status, task["request_id"]) == (201, "order-17")
    wait_for(lambda: '"task_scheduled"' in run.err.read_text(), 20)
    assert run.end() == 0
    text = run.err.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    of_request = [line for line in lines if line.get("request_id") == "order-17"]
    assert {(line["action"], line["task_id"]) for line in of_request} == {
        ("write", task["id"]),
        ("task_scheduled", task["id"]),
    }
    assert [line["key"] for line in lines if line["action"] == "write"] == ["orders"]
    assert [line["status"] for line in lines if line["action"] == "refused"] == [401, 403]
    for secret in (READ, WRITE, *(entry.rpartition(":")[2] for entry in ENTRIES)):
        assert secret not in text


def test_keys_that_cannot_be_used_end_it_at_the_start(start: Callable[..., Run]) -> None:
    run = start(API_KEYS=f"orders:write:{WRITE}")
    assert run.process.wait(20) == 1
    told = run.err.read_text()
    assert "local: API_KEYS: entry 1: the hash cannot be used" in told
    assert WRITE not in told
