"""What requests say in text, checked and turned into values of the domain, and back.

Whatever does not fit raises InvalidRequest, whose details name the field, what came and what was
expected. Nothing here knows HTTP's mechanics: a body is bytes, a query maps names to values.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

from chalicelib import times
from chalicelib.errors import GOT_CHARS_MAX, InvalidRequest, shortened
from chalicelib.store.contract import Position, TaskFilter
from chalicelib.task import VISIBLE
from chalicelib.task_types import HANDLERS, payload

LIMIT_MAX = 1000
KEY_CHARS_MAX = 255
CURSOR_CHARS_MAX = 512
BATCH_MAX = 100

_BODY = "a JSON object"
_BATCH = f"an array of 1 to {BATCH_MAX} tasks"
_FIELDS = ("type", "send_ts", "payload")
_PARAMETERS = ("state", "type", "since", "until", "limit", "cursor", "order")
_TASK_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")

_refused = InvalidRequest.of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTask:
    """What a client asks for when it creates a task. payload: the text of a JSON object."""

    type: str
    send_ts_ms: int
    payload: str | None


def is_task_id(text: str) -> bool:
    return _TASK_ID.fullmatch(text) is not None


def task_id(text: str) -> str | None:
    """The id that a segment of a path spells, in capitals or percent-encoded too; else None."""
    id = unquote(text).lower()
    return id if is_task_id(id) else None


def one_value(name: str, values: Sequence[str]) -> str:
    """What a header says, however often. Raises InvalidRequest unless it says one thing."""
    first, *others = (value.strip() for value in values)
    if any(value != first for value in others):
        got = ", ".join([first, *others])
        raise _refused(f"{name} is given more than once.", name, got, "one value")
    return first


def new_task(body: bytes) -> NewTask:
    """The body of a create: a JSON object of `type`, `send_ts` and perhaps `payload`."""
    return _new_task(_object(body))


def new_tasks(body: bytes) -> Sequence[NewTask | InvalidRequest]:
    """The body of a batch: {"tasks": […]}. What is wrong with a task stands in its place."""
    fields = _object(body)
    _only("field", fields, ("tasks",))
    if "tasks" not in fields:
        raise _refused("tasks is missing.", "tasks", expected=_BATCH)
    tasks = fields["tasks"]
    if not isinstance(tasks, list):
        raise _refused("tasks must be an array.", "tasks", payload.shown(tasks), _BATCH)
    if not 1 <= len(tasks) <= BATCH_MAX:
        raise _refused("So many tasks are no batch.", "tasks", f"{len(tasks)} tasks", _BATCH)
    return [_new_task_or_error(task) for task in tasks]


def _new_task_or_error(task: object) -> NewTask | InvalidRequest:
    try:
        if not isinstance(task, dict):
            raise _refused("A task must be a JSON object.", "task", payload.shown(task), _BODY)
        return _new_task(task)
    except InvalidRequest as error:
        return error


def _new_task(fields: Mapping[str, Any]) -> NewTask:
    _only("field", fields, _FIELDS)
    task_type = _one_of("type", _string(fields, "type", "a task type"), HANDLERS)
    return NewTask(
        type=task_type,
        send_ts_ms=time_ms("send_ts", _string(fields, "send_ts", times.TIME_EXPECTED)),
        payload=_payload(fields, task_type),
    )


def _payload(fields: Mapping[str, Any], task_type: str) -> str | None:
    """The text of the payload, if one was given."""
    text = payload.checked(fields.get("payload", {}), task_type, HANDLERS[task_type])
    return text if "payload" in fields else None


def task_filter(query: Mapping[str, Sequence[str]]) -> TaskFilter:
    """The query of a list."""
    _only("parameter", query, _PARAMETERS)
    for name, values in query.items():
        if len(values) > 1 and name not in ("state", "type"):
            raise _refused(f"{name} is given more than once.", name, ", ".join(values), "one value")
    single = {name: values[0] for name, values in query.items()}
    since_ms = time_ms("since", single["since"]) if "since" in single else None
    until_ms = time_ms("until", single["until"]) if "until" in single else None
    if since_ms is not None and until_ms is not None and until_ms < since_ms:
        expected = "a time not before since"
        raise _refused("until is before since.", "until", single["until"], expected)
    filter = TaskFilter(
        states=_each("state", query, {state.value: state for state in VISIBLE}),
        types=_each("type", query, {type: type for type in HANDLERS}),
        since_ms=since_ms,
        until_ms=until_ms,
        limit=_limit(single.get("limit", "50")),
        descending=_one_of("order", single.get("order", "asc"), ("asc", "desc")) == "desc",
    )
    if "cursor" not in single:
        return filter
    return replace(filter, after=_position(filter, single["cursor"]))


def idempotency_key(text: str | None) -> str | None:
    """The header's value, None if it was not sent."""
    if text is not None and (len(text) > KEY_CHARS_MAX or not _KEY.fullmatch(text)):
        expected = f"1 to {KEY_CHARS_MAX} printable ASCII characters"
        raise _refused("Idempotency-Key cannot be used.", "Idempotency-Key", text, expected)
    return text


def cursor(filter: TaskFilter, position: Position) -> str:
    """The opaque text with which `task_filter` goes on behind this position."""
    content = f"1 {position.send_ts_ms} {position.id} {_digest(filter, position)}"
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def _position(filter: TaskFilter, text: str) -> Position:
    """Where a cursor goes on: one that we made, for the same filter."""
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
    raise _refused("cursor does not belong to this list.", "cursor", text, expected)


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


def _each(
    field: str, query: Mapping[str, Sequence[str]], known: Mapping[str, T]
) -> frozenset[T] | None:
    if field not in query:
        return None
    return frozenset(known[_one_of(field, value, known)] for value in query[field])


def _only(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            expected = ", ".join(known)
            raise _refused(f"There is no {what} {shortened(name)}.", name, expected=expected)


def _limit(text: str) -> int:
    if not _LIMIT.fullmatch(text) or int(text) > LIMIT_MAX:
        raise _refused("limit cannot be used.", "limit", text, f"an integer from 1 to {LIMIT_MAX}")
    return int(text)


def _one_of(field: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        expected = "one of " + ", ".join(sorted(known))
        raise _refused(f"{field} {shortened(value)!r} is not known.", field, value, expected)
    return value


def _string(fields: Mapping[str, Any], name: str, expected: str) -> str:
    if name not in fields:
        raise _refused(f"{name} is missing.", name, expected=expected)
    value = fields[name]
    if not isinstance(value, str):
        raise _refused(f"{name} must be a string.", name, payload.shown(value), expected)
    return value


def _object(body: bytes) -> dict[str, Any]:
    """The one JSON object in a body, stricter than `json` where RFC 8259 leaves the choice."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        got = repr(body[:GOT_CHARS_MAX])[2:-1]
        raise _refused("The body is not UTF-8.", "body", got, _BODY) from None
    except json.JSONDecodeError as error:
        raise _refused(f"The body is not JSON: {error}.", "body", text, _BODY) from None
    except ValueError:
        raise _refused("The body holds too long a number.", "body", expected=_BODY) from None
    except RecursionError:
        raise _refused("The body is nested too deeply.", "body", expected=_BODY) from None
    if not isinstance(value, dict):
        raise _refused("The body must be a JSON object.", "body", payload.shown(value), _BODY)
    return value


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _refused(f"{shortened(name)} is given twice.", name, expected="each name once")
        fields[name] = value
    return fields


def _no_constant(name: str) -> NoReturn:
    raise _refused(f"The body is not JSON: {name}.", "body", name, _BODY)


def time_ms(field: str, text: str) -> int:
    """An RFC 3339 time as milliseconds since the epoch."""
    try:
        return times.parsed_ms(text)
    except times.InvalidTime as error:
        hint = " In a query, + is written %2B." if " " in text else ""
        message = f"{field} is {error}.{hint}"
        raise _refused(message, field, text, error.expected) from None
