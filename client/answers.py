"""What the API takes and answers, as types."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

State = Literal["scheduled", "running", "completed", "failed"]
Outcome = Literal["running", "completed", "failed", "retried", "given_back", "lease_lost"]
Step = Literal["1m", "5m", "15m", "1h", "1d"]


class NewTask(TypedDict):
    """A task to create. send_ts: RFC 3339 with an offset."""

    type: str
    send_ts: str
    payload: NotRequired[Mapping[str, Any]]


class Task(TypedDict):
    """A task. Times are RFC 3339 in UTC; what is not known yet is None."""

    id: str
    type: str
    send_ts: str
    state: State
    processor: str | None
    attempt: int
    created_ts: str
    started_ts: str | None
    finished_ts: str | None
    lateness_ms: int | None
    result: str | None
    error: str | None
    request_id: str | None
    payload: NotRequired[dict[str, Any]]


class Attempt(TypedDict):
    """One time that a task was taken, and what became of it."""

    attempt: int
    processor: str
    started_ts: str
    ended_ts: str | None
    outcome: Outcome
    error: str | None


class Processor(TypedDict):
    """A live process that runs tasks."""

    id: str
    kind: str
    seconds_since_beat: float
    held_back_s: int


class Explanation(TypedDict):
    """Why a task has not run yet. reason: a stable word; message: a sentence."""

    id: str
    type: str
    state: State
    now: str
    due: bool
    reason: str
    message: str
    due_at: str | None
    seconds_until_due: float | None
    next_retry: str | None
    held_by: str | None
    lease_until: str | None
    shard: int
    owner: str | None
    hint_present: bool | None
    processors: list[Processor]
    attempts: list[Attempt]


class Percentiles(TypedDict):
    """In milliseconds, within 6 %; max is exact. None without values."""

    p50: int | None
    p90: int | None
    p99: int | None
    max: int | None


class Figures(TypedDict):
    """What processors did. ts: in a series, when its step begins."""

    ts: NotRequired[str]
    started: int
    completed: int
    failed: int
    retried: int
    released: int
    leases_lost: int
    lateness_ms: Percentiles
    run_time_ms: Percentiles


class Backlog(TypedDict):
    """Tasks that are due and not started. is_more: the count ended before all were seen."""

    due: int
    is_more: bool
    oldest_s: float | None


class LiveProcessor(TypedDict):
    """A live process that runs tasks; what one of an earlier version does not tell is None."""

    id: str
    kind: str
    host: str | None
    version: str | None
    seconds_since_heartbeat: float
    places: int | None
    taken: int | None
    free: int | None
    shards: Sequence[int]
    held_back_s: int


class Stats(TypedDict):
    """What the service did from since to until, and how it is now."""

    now: str
    since: str
    until: str
    step_s: int
    is_complete: bool
    total: Figures
    per_second: Mapping[str, float]
    by_type: Mapping[str, Figures]
    series: Sequence[Figures]
    backlog: Backlog
    processors: Sequence[LiveProcessor]
