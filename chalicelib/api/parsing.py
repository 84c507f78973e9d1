"""What requests say in text, checked and turned into values of the domain, and back.

Whatever does not fit raises InvalidRequest, whose details name the field, what came and what was
expected. Nothing here knows HTTP's mechanics: a body is bytes, a query maps names to values.
"""

import base64
import datetime
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

from chalicelib.errors import InvalidRequest
from chalicelib.store.contract import Position, TaskFilter
from chalicelib.task import VISIBLE
from chalicelib.task_types import HANDLERS, payload

LIMIT_MAX = 1000
KEY_CHARS_MAX = 255
GOT_CHARS_MAX = 100
CURSOR_CHARS_MAX = 512
BATCH_MAX = 100
PAYLOAD_BYTES_MAX = 32_768

TIME_EXPECTED = "an RFC 3339 time with an offset, such as 2030-01-31T12:00:00Z"
_BODY = "a JSON object"
_BATCH = f"an array of 1 to {BATCH_MAX} tasks"
_FIELDS = ("type", "send_ts", "payload")
_PARAMETERS = ("state", "type", "since", "until", "limit", "cursor", "order")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_TASK_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - UTC throughout, and years beyond 9999 fail
_MILLISECOND = datetime.timedelta(milliseconds=1)

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
        raise _refused("tasks must be an array.", "tasks", _shown(tasks), _BATCH)
    if not 1 <= len(tasks) <= BATCH_MAX:
        raise _refused("So many tasks are no batch.", "tasks", f"{len(tasks)} tasks", _BATCH)
    return [_new_task_or_error(task) for task in tasks]


def _new_task_or_error(task: object) -> NewTask | InvalidRequest:
    try:
        if not isinstance(task, dict):
            raise _refused("A task must be a JSON object.", "task", _shown(task), _BODY)
        return _new_task(task)
    except InvalidRequest as error:
        return error


def _new_task(fields: Mapping[str, Any]) -> NewTask:
    _only("field", fields, _FIELDS)
    task_type = _one_of("type", _string(fields, "type", "a task type"), HANDLERS)
    return NewTask(
        type=task_type,
        send_ts_ms=time_ms("send_ts", _string(fields, "send_ts", TIME_EXPECTED)),
        payload=_payload(fields, task_type),
    )


def _payload(fields: Mapping[str, Any], task_type: str) -> str | None:
    """The text of the payload, if its handler takes it."""
    given = fields.get("payload", {})
    if not isinstance(given, dict):
        raise _refused("payload must be a JSON object.", "payload", _shown(given), _BODY)
    try:
        text = payload.text_of(given)
    except ValueError as error:
        expected = "JSON that every reader can read"
        raise _refused(f"payload cannot be used: {error}.", "payload", expected=expected) from None
    size = len(text.encode())
    if size > PAYLOAD_BYTES_MAX:
        expected = f"at most {PAYLOAD_BYTES_MAX} bytes"
        raise _refused("payload is too large.", "payload", f"{size} bytes", expected)
    _must_fit(given, task_type)
    return text if "payload" in fields else None


def _must_fit(given: Mapping[str, Any], task_type: str) -> None:
    schema = payload.schema(HANDLERS[task_type])
    known = schema["properties"]
    for name, value in given.items():
        field = f"payload.{name}"
        if name not in known:
            expected = ", ".join(f"payload.{name}" for name in known) or "no payload"
            raise _refused(f"{task_type} takes no {shortened(field)}.", field, expected=expected)
        if not payload.fits(value, known[name]):
            expected = payload.expected(known[name])
            raise _refused(f"{field} does not fit.", field, _shown(value), expected)
    for name in schema.get("required", ()):
        if name not in given:
            expected = payload.expected(known[name])
            raise _refused(f"payload.{name} is missing.", f"payload.{name}", expected=expected)


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
        rfc3339(position.send_ts_ms)
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
        raise _refused(f"{name} must be a string.", name, _shown(value), expected)
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
        raise _refused("The body must be a JSON object.", "body", _shown(value), _BODY)
    return value


def _shown(value: object) -> str:
    """A JSON value in a few words."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return json.dumps(value)


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
    """An RFC 3339 time as milliseconds since the epoch, rounded up: a task is never early."""
    found = _TIME.fullmatch(text)
    if found is None:
        hint = " In a query, + is written %2B." if " " in text else ""
        raise _refused(f"{field} is not a time with an offset.{hint}", field, text, TIME_EXPECTED)
    if found[6] == "60":
        raise _refused(f"{field} is a leap second: unsupported.", field, text, TIME_EXPECTED)
    try:
        ms = _ms_of(found)
        rfc3339(ms)
    except (ValueError, OverflowError):
        expected = f"{TIME_EXPECTED}, of a real date in the years 0001 to 9999 of UTC"
        raise _refused(f"{field} is no possible time.", field, text, expected) from None
    return ms


def _ms_of(found: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (int(found[n]) for n in range(1, 7))
    local = datetime.datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
    offset_min = 0
    if found[8]:
        offset = datetime.time(int(found[9]), int(found[10]))
        offset_min = (offset.hour * 60 + offset.minute) * (1 if found[8] == "+" else -1)
    fraction = found[7] or ""
    ms = int(fraction[:3].ljust(3, "0")) + bool(fraction[3:].strip("0"))
    return (local - _EPOCH) // _MILLISECOND - offset_min * 60_000 + ms


def rfc3339(ms: int) -> str:
    """In UTC, with milliseconds. Raises OverflowError beyond the years 0001 to 9999."""
    moment = _EPOCH + datetime.timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds") + "Z"


def shortened(text: str) -> str:
    """For an error message: not too long, and possible to write in UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= GOT_CHARS_MAX else text[: GOT_CHARS_MAX - 1] + "…"


def _refused(
    message: str, field: str, got: str | None = None, expected: str | None = None
) -> InvalidRequest:
    details = {"field": field, "got": got, "expected": expected}
    return InvalidRequest(
        message, **{name: shortened(text) for name, text in details.items() if text is not None}
    )
