"""What a tick did, as log lines of which CloudWatch makes metrics (its embedded metric format)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from chalicelib.clock import Clock
from chalicelib.histogram import Histogram
from chalicelib.processing.observation import Observation, observed, statistics_of
from chalicelib.statistics import Statistics
from chalicelib.task import Task

log = logging.getLogger(__name__)

NAMESPACE = "Scheduler"
VALUES_MAX = 100
"""CloudWatch takes so many values of a metric in a line."""
COUNTERS = {
    "Started": "started",
    "Completed": "completed",
    "Failed": "failed",
    "Retried": "retried",
    "Released": "released",
    "LeasesLost": "leases_lost",
}
HISTOGRAMS = {"Lateness": "lateness", "RunTime": "run_time"}


class EmbeddedMetrics:
    """A Record of one tick."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._observed: dict[str, list[Observation]] = {}

    def __call__(self, event: str, task: Task | None, **more: Any) -> None:
        if (found := observed(event, task, more)) is not None:
            self._observed.setdefault(found.type, []).append(found)

    def write(self) -> None:
        """A line for each type of which anything happened."""
        for type, found in self._observed.items():
            values = embedded(type, statistics_of(found), self._clock.now_ms())
            extra = {"action": "metrics", **values}
            log.info("metrics of a tick: %s", type, extra=extra)


def embedded(type: str, one: Statistics, now_ms: int) -> Mapping[str, Any]:
    """The keys of a line. Metrics are by type, and of all types together."""
    counts = {name: getattr(one, field) for name, field in COUNTERS.items()}
    histograms = {name: _values(getattr(one, field)) for name, field in HISTOGRAMS.items()}
    values = {name: values for name, values in histograms.items() if values}
    units = [{"Name": name, "Unit": "Count"} for name in counts]
    units += [{"Name": name, "Unit": "Milliseconds"} for name in values]
    directive = {"Namespace": NAMESPACE, "Dimensions": [["Type"], []], "Metrics": units}
    return {
        "_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [directive]},
        "Type": type,
        **counts,
        **values,
    }


def _values(histogram: Histogram) -> Sequence[int]:
    """Values that have its percentiles, all of them if they are few; the last is the largest."""
    count = min(VALUES_MAX, histogram.count)
    parts = ((number + 1) / count for number in range(count))
    return [ms for part in parts if (ms := histogram.percentile_ms(part)) is not None]
