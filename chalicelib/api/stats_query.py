"""The query of statistics: of which time and types, and how finely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chalicelib.api.fields import one_of, time_ms
from chalicelib.api.list_query import each, single_values
from chalicelib.errors import InvalidRequest
from chalicelib.statistics import Step
from chalicelib.task_types import HANDLERS
from chalicelib.times import rfc3339

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
STEPS = {"1m": MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS, "1h": HOUR_MS, "1d": DAY_MS}
DEFAULT_SPAN_MS = HOUR_MS
FINE_SPAN_MS = 6 * HOUR_MS
"""Steps below an hour are for so long a time at most; a day of them would be many rows."""
SPAN_MS = 31 * DAY_MS
EARLIEST_MS = 0
LATEST_MS = 32_503_680_000_000
"""The year 3000."""

_PARAMETERS = ("since", "until", "type", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsQuery:
    """[since, until), both at the beginning of a step of `step_ms`. types: None for all."""

    since_ms: int
    until_ms: int
    step_ms: int
    types: frozenset[str] | None = None

    @property
    def rows(self) -> Step:
        """Which rows tell it."""
        return Step.HOUR if self.step_ms >= HOUR_MS else Step.MINUTE


def stats_query(query: Mapping[str, Sequence[str]], now_ms: int) -> StatsQuery:
    """query: all values by parameter. Raises InvalidRequest."""
    single = single_values(query, _PARAMETERS, ("type",))
    until_ms = _time_ms(single, "until", now_ms)
    since_ms = _time_ms(single, "since", until_ms - DEFAULT_SPAN_MS)
    if since_ms >= until_ms:
        got = single.get("since", rfc3339(since_ms))
        raise InvalidRequest.of("since is not before until.", "since", got, "a time before until")
    span_ms = until_ms - since_ms
    _check_span("since", single.get("since", ""), span_ms, SPAN_MS, "31 days")
    default = "1m" if span_ms <= FINE_SPAN_MS else "1h"
    step = one_of("step", single.get("step", default), STEPS)
    step_ms = STEPS[step]
    if step_ms < HOUR_MS:
        _check_span("step", step, span_ms, FINE_SPAN_MS, "6 hours at this step")
    return StatsQuery(
        since_ms=since_ms - since_ms % step_ms,
        until_ms=until_ms + -until_ms % step_ms,
        step_ms=step_ms,
        types=each("type", query, {type: type for type in HANDLERS}),
    )


def _time_ms(single: Mapping[str, str], name: str, default_ms: int) -> int:
    if name not in single:
        return default_ms
    ms = time_ms(name, single[name])
    if not EARLIEST_MS <= ms <= LATEST_MS:
        expected = "a time of the years 1970 to 2999"
        raise InvalidRequest.of(f"{name} cannot be used.", name, single[name], expected)
    return ms


def _check_span(field: str, got: str, span_ms: int, most_ms: int, text: str) -> None:
    if span_ms > most_ms:
        expected = f"at most {text} from since to until"
        raise InvalidRequest.of("This is too long a time.", field, got, expected)
