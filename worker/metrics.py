"""Metrics of one process of the worker, for Prometheus.

They stand in files of a folder that all processes of the worker share; whoever serves them adds
them up. A file belongs to a place, not to a process: who takes the place goes on counting.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chalicelib.processing.observation import observed
from chalicelib.processing.processor import Condition
from chalicelib.task import Task
from chalicelib.version import VERSION

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG_S = (*SHORT_S, 30, 60, 300, 1_800, 3_600)
RECOVERY_S = (0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 8, 10, 11, 12, 15, 20, 30, 60, 300)
CLAIMS = {"claimed": "granted", "refused": "lost", "held_back": "held_back"}
"""What a processor counts of its claims, and what they are called."""
ENDS = ("completed", "failed")


class Described(NamedTuple):
    """kind: Counter, Histogram or Gauge. mode: how the gauges of all processes make one."""

    kind: str
    text: str
    labels: Sequence[str] = ()
    buckets_s: Sequence[float] = ()
    mode: str = ""


METRICS: Mapping[str, Described] = {
    "attempts_started": Described("Counter", "Handlers that were started", ["type"]),
    "attempts": Described("Counter", "Attempts that were settled", ["type", "outcome"]),
    "tasks": Described("Counter", "Tasks that reached their outcome", ["type", "outcome"]),
    "leases_lost": Described("Counter", "Attempts that were never settled", ["type"]),
    "claims": Described("Counter", "Claims that were answered, or held back", ["outcome"]),
    "store_requests": Described("Counter", "Requests to the store", ["operation", "outcome"]),
    "lateness_seconds": Described(
        "Histogram", "First start of a task after its time", ["type"], LONG_S
    ),
    "run_time_seconds": Described(
        "Histogram", "Handlers from start to settlement", ["type"], SHORT_S
    ),
    "recovery_delay_seconds": Described(
        "Histogram", "From a claim whose lease was lost to the claim in its place", [], RECOVERY_S
    ),
    "places": Described("Gauge", "Tasks that may run at once", mode="livesum"),
    "places_taken": Described("Gauge", "Tasks that run", mode="livesum"),
    "backlog_age_seconds": Described(
        "Gauge", "How long the oldest known due task has waited", mode="livemax"
    ),
    "heartbeat_timestamp_seconds": Described(
        "Gauge", "When the oldest of the last heartbeats was written", mode="livemin"
    ),
    "processors": Described("Gauge", "Processes that run tasks", mode="livesum"),
    "info": Described("Gauge", "The version", ["version"], mode="livemax"),
}
"""All there are, by name without `scheduler_`."""


class Metrics:
    """A Record, an Observe of the store, and told of the processor's condition each second.

    Prometheus' client reads FOLDER_VARIABLE when it is first imported: it must be set before.
    """

    def __init__(self, place: int) -> None:
        """place: the number of the process among those that live."""
        from prometheus_client import CollectorRegistry, values

        by_place: Any = values.MultiProcessValue
        values.ValueClass = by_place(lambda: place)
        registry = CollectorRegistry()
        made = {name: _made(name, one, registry) for name, one in METRICS.items()}
        self._claims_told: dict[str, int] = {}
        self._started, self._attempts = made["attempts_started"], made["attempts"]
        self._tasks, self._lost = made["tasks"], made["leases_lost"]
        self._claims, self._requests = made["claims"], made["store_requests"]
        self._lateness, self._run_time = made["lateness_seconds"], made["run_time_seconds"]
        self._recovery, self._backlog = made["recovery_delay_seconds"], made["backlog_age_seconds"]
        self._places, self._taken = made["places"], made["places_taken"]
        self._heartbeat = made["heartbeat_timestamp_seconds"]
        made["processors"].set(1)
        made["info"].labels(VERSION).set(1)

    def __call__(self, event: str, task: Task | None, **more: Any) -> None:
        found = observed(event, task, more)
        if found is None:
            return
        type, counter = found.type, found.counter
        if counter == "started":
            self._started.labels(type).inc()
        elif counter == "leases_lost":
            self._lost.labels(type).inc()
        else:
            self._attempts.labels(type, counter).inc()
            if counter in ENDS:
                self._tasks.labels(type, counter).inc()
        if found.lateness_ms is not None:
            self._lateness.labels(type).observe(found.lateness_ms / 1000)
        if found.run_time_ms is not None:
            self._run_time.labels(type).observe(found.run_time_ms / 1000)
        if found.recovery_ms is not None:
            self._recovery.observe(found.recovery_ms / 1000)

    def observe_request(self, operation: str, outcome: str) -> None:
        """See Observe."""
        self._requests.labels(operation, outcome).inc()

    def sample(self, condition: Condition) -> None:
        """Called each second."""
        self._places.set(condition.places)
        self._taken.set(condition.taken)
        self._backlog.set(condition.backlog_age_s)
        self._heartbeat.set(condition.heartbeat_ms / 1000)
        for name, outcome in CLAIMS.items():
            count, told = condition.counts.get(name, 0), self._claims_told.get(name, 0)
            self._claims.labels(outcome).inc(count - told)
            self._claims_told[name] = count


def _made(name: str, one: Described, registry: Any) -> Any:
    import prometheus_client

    more: dict[str, Any] = {"buckets": one.buckets_s} if one.buckets_s else {}
    more |= {"multiprocess_mode": one.mode} if one.mode else {}
    kind = getattr(prometheus_client, one.kind)
    return kind(name, one.text, one.labels, namespace="scheduler", registry=registry, **more)


def share(folder: str) -> None:
    """From now on metrics of this process, and of those it forks, stand in this folder.

    Imports the client, so that no process that is forked later has to.
    """
    os.environ[FOLDER_VARIABLE] = folder
    import prometheus_client.multiprocess  # noqa: F401
