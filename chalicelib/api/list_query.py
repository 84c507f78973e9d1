"""The query of a list, and the cursor that leads from one page to the next."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from chalicelib import times
from chalicelib.api.fields import check_names, is_task_id, one_of, time_ms
from chalicelib.errors import InvalidRequest
from chalicelib.store.contract import Position, TaskFilter
from chalicelib.task import VISIBLE
from chalicelib.task_types import HANDLERS

LIMIT_MAX = 1000
CURSOR_CHARS_MAX = 512

_PARAMETERS = ("state", "type", "since", "until", "limit", "cursor", "order")
_REPEATABLE = ("state", "type")

T = TypeVar("T")


def task_filter(query: Mapping[str, Sequence[str]]) -> TaskFilter:
    """query: all values by parameter. Raises InvalidRequest."""
    single = single_values(query, _PARAMETERS, _REPEATABLE)
    since_ms = time_ms("since", single["since"]) if "since" in single else None
    until_ms = time_ms("until", single["until"]) if "until" in single else None
    if since_ms is not None and until_ms is not None and until_ms < since_ms:
        expected = "a time not before since"
        raise InvalidRequest.of("until is before since.", "until", single["until"], expected)
    filter = TaskFilter(
        states=each("state", query, {state.value: state for state in VISIBLE}),
        types=each("type", query, {type: type for type in HANDLERS}),
        since_ms=since_ms,
        until_ms=until_ms,
        limit=_limit(single.get("limit", "50")),
        descending=one_of("order", single.get("order", "asc"), ("asc", "desc")) == "desc",
    )
    if "cursor" not in single:
        return filter
    return replace(filter, after=_position(filter, single["cursor"]))


def cursor(filter: TaskFilter, position: Position) -> str:
    """The opaque text with which `task_filter` continues behind this position."""
    content = f"1 {position.send_ts_ms} {position.id} {_digest(filter, position)}"
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def single_values(
    query: Mapping[str, Sequence[str]], known: Sequence[str], repeatable: Sequence[str]
) -> Mapping[str, str]:
    """The first value of each parameter. known: all there are. repeatable: those that may have more
    than one. Raises InvalidRequest."""
    check_names("parameter", query, known)
    for name, values in query.items():
        if len(values) > 1 and name not in repeatable:
            message, got = f"{name} is given more than once.", ", ".join(values)
            raise InvalidRequest.of(message, name, got, "one value")
    return {name: values[0] for name, values in query.items()}


def each(
    field: str, query: Mapping[str, Sequence[str]], known: Mapping[str, T]
) -> frozenset[T] | None:
    """What the values of a parameter stand for; None if it is not given. Raises InvalidRequest."""
    if field not in query:
        return None
    return frozenset(known[one_of(field, value, known)] for value in query[field])


def _limit(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text) or int(text) > LIMIT_MAX:
        expected = f"an integer from 1 to {LIMIT_MAX}"
        raise InvalidRequest.of("limit cannot be used.", "limit", text, expected)
    return int(text)


def _position(filter: TaskFilter, text: str) -> Position:
    """Where a cursor continues. It must be one of ours, made for the same filter."""
    try:
        padded = text[:CURSOR_CHARS_MAX] + "=" * (-len(text) % 4)
        content = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        _, send_ts_ms, task_id, _ = content.split(" ")
        position = Position(int(send_ts_ms), task_id)
        times.rfc3339(position.send_ts_ms)
        if is_task_id(task_id) and text == cursor(filter, position):
            return position
    except (ValueError, OverflowError):
        pass
    expected = "the cursor of the page before, with the same state, type, since, until and order"
    raise InvalidRequest.of("cursor does not belong to this list.", "cursor", text, expected)


def _digest(filter: TaskFilter, position: Position) -> str:
    meaning = (
        None if filter.states is None else sorted(filter.states),
        None if filter.types is None else sorted(filter.types),
        filter.since_ms,
        filter.until_ms,
        filter.descending,
        *position,
    )
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]
