"""What clients are shown, as JSON values: tasks, attempts, explanations, readiness."""

import json

from chalicelib.api.explain import Explanation
from chalicelib.attempts import Attempt
from chalicelib.store.contract import Heartbeat, Pressure
from chalicelib.task import Task, TaskState
from chalicelib.times import rfc3339


def task_json(task: Task) -> dict[str, object]:
    """Every key is always there; `payload` only if one was given."""
    fields: dict[str, object] = {
        "id": task.id,
        "type": task.type,
        "send_ts": rfc3339(task.send_ts_ms),
        "state": task.state,
        "processor": task.processor,
        "attempt": task.attempt,
        "created_ts": rfc3339(task.created_ts_ms),
        "started_ts": _time_text(task.started_ts_ms),
        "finished_ts": _time_text(task.finished_ts_ms),
        "lateness_ms": task.lateness_ms,
        "result": task.result,
        "error": task.error,
        "request_id": task.request_id,
    }
    return fields if task.payload is None else fields | {"payload": json.loads(task.payload)}


def attempt_json(attempt: Attempt) -> dict[str, object]:
    return {
        "attempt": attempt.number,
        "processor": attempt.processor,
        "started_ts": rfc3339(attempt.started_ts_ms),
        "ended_ts": _time_text(attempt.ended_ts_ms),
        "outcome": attempt.outcome,
        "error": attempt.error,
    }


def explanation_json(explanation: Explanation) -> dict[str, object]:
    """What belongs to one state only is null in the others."""
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
        "due_at": _time_text(task.due_at_ms),
        "seconds_until_due": explanation.seconds_until_due,
        "next_retry": _time_text(task.due_at_ms) if is_retry else None,
        "held_by": task.processor if is_running else None,
        "lease_until": _time_text(task.due_at_ms) if is_running else None,
        "shard": explanation.shard,
        "owner": explanation.owner,
        "hint_present": explanation.has_hint,
        "processors": [_processor_json(row, now_ms) for row in explanation.live],
        "attempts": [attempt_json(attempt) for attempt in task.attempts],
    }


def _processor_json(row: Heartbeat, now_ms: int) -> dict[str, object]:
    return {
        "id": row.processor,
        "kind": row.kind,
        "seconds_since_beat": max(0, now_ms - row.written_ms) / 1000,
        "held_back_s": row.held_back_s,
    }


def readiness_json(pressure: Pressure) -> dict[str, object]:
    """For a store that can be used."""
    return {
        "status": "ok",
        "store": "slow" if pressure.is_slow else "ok",
        "latency_ms": round(pressure.latency_s * 1000),
    }


def _time_text(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
