"""What clients are shown, as JSON values: tasks, their attempts, explanations, and OpenAPI."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chalicelib.api.explain import Explanation
from chalicelib.attempts import Attempt
from chalicelib.task import Task, TaskState
from chalicelib.task_types import HANDLERS, Handler
from chalicelib.task_types.payload import schema
from chalicelib.times import rfc3339


def task_json(task: Task) -> dict[str, object]:
    """A task as clients see it: every key is always there, `payload` if one was given."""
    shown: dict[str, object] = {
        "id": task.id,
        "type": task.type,
        "send_ts": rfc3339(task.send_ts_ms),
        "state": task.state,
        "processor": task.processor,
        "attempt": task.attempt,
        "created_ts": rfc3339(task.created_ts_ms),
        "started_ts": _time(task.started_ts_ms),
        "finished_ts": _time(task.finished_ts_ms),
        "lateness_ms": task.lateness_ms,
        "result": task.result,
        "error": task.error,
    }
    return shown if task.payload is None else shown | {"payload": json.loads(task.payload)}


def attempt_json(attempt: Attempt) -> dict[str, object]:
    return {
        "attempt": attempt.number,
        "processor": attempt.processor,
        "started_ts": rfc3339(attempt.started_ts_ms),
        "ended_ts": _time(attempt.ended_ts_ms),
        "outcome": attempt.outcome,
        "error": attempt.error,
    }


def explanation_json(explanation: Explanation) -> dict[str, object]:
    """What holds for one state only is null in the others."""
    task, now_ms = explanation.task, explanation.now_ms
    is_running = task.state is TaskState.RUNNING
    is_retry = task.state is TaskState.SCHEDULED and (task.failures > 0 or task.is_resting)
    return {
        "id": task.id,
        "type": task.type,
        "state": task.state,
        "now": rfc3339(now_ms),
        "due": task.is_claimable(now_ms),
        "reason": explanation.reason,
        "message": explanation.message,
        "due_at": _time(task.due_at_ms),
        "seconds_until_due": explanation.seconds_until_due,
        "next_retry": _time(task.due_at_ms) if is_retry else None,
        "held_by": task.processor if is_running else None,
        "lease_until": _time(task.due_at_ms) if is_running else None,
        "shard": explanation.shard,
        "owner": explanation.owner,
        "hint_present": explanation.has_hint,
        "processors": [
            {
                "id": row.processor,
                "kind": row.kind,
                "seconds_since_beat": max(0, now_ms - row.beat_ms) / 1000,
                "held_back_s": row.held_back_s,
            }
            for row in explanation.live
        ],
        "attempts": [attempt_json(attempt) for attempt in task.attempts],
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


def openapi_document() -> dict[str, Any]:
    """The document kept beside this module, with the task types of this version."""
    text = (Path(__file__).parent / "openapi.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    schemas = document["components"]["schemas"]
    schemas["TaskType"]["enum"] = sorted(HANDLERS)
    schemas["NewTask"] = new_task_schema(schemas["NewTask"], HANDLERS)
    return document


def new_task_schema(
    plain: Mapping[str, Any], handlers: Mapping[str, Handler]
) -> Mapping[str, object]:
    """NewTask with the payloads that these handlers take, in one branch for each kind of them."""
    types_by_payload: dict[str, list[str]] = {}
    for type in sorted(handlers):
        text = json.dumps(schema(handlers[type]))
        types_by_payload.setdefault(text, []).append(type)
    branches = []
    for text, types in types_by_payload.items():
        taken = json.loads(text)
        properties = dict(plain["properties"])
        properties["type"] = {"type": "string", "enum": types}
        properties["payload"] = properties["payload"] | taken
        must = [*plain["required"], *(["payload"] if "required" in taken else [])]
        branches.append({**plain, "required": must, "properties": properties})
    return branches[0] if len(branches) == 1 else {"anyOf": branches}
