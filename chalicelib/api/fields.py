"""Checks of single fields of a body and single parameters of a query.

Each raises InvalidRequest, whose details name the field, what came and what was expected.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from chalicelib import times
from chalicelib.errors import InvalidRequest, shortened
from chalicelib.task_types import payload


def check_names(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Allow the known names only. kind: what they name, "field" or "parameter"."""
    for name in names:
        if name not in known:
            expected = ", ".join(known)
            message = f"There is no {kind} {shortened(name)}."
            raise InvalidRequest.of(message, name, expected=expected)


def string(fields: Mapping[str, Any], name: str, expected: str) -> str:
    """The value of a field that must be there and be a string."""
    if name not in fields:
        raise InvalidRequest.of(f"{name} is missing.", name, expected=expected)
    value = fields[name]
    if not isinstance(value, str):
        message = f"{name} must be a string."
        raise InvalidRequest.of(message, name, payload.shown(value), expected)
    return value


def one_of(field: str, value: str, known: Collection[str]) -> str:
    """The value, which must be a known one."""
    if value not in known:
        expected = "one of " + ", ".join(sorted(known))
        message = f"{field} {shortened(value)!r} is not known."
        raise InvalidRequest.of(message, field, value, expected)
    return value


def time_ms(field: str, text: str) -> int:
    """An RFC 3339 time as milliseconds since the epoch."""
    try:
        return times.parsed_ms(text)
    except times.InvalidTime as error:
        hint = " In a query, + is written %2B." if " " in text else ""
        message = f"{field} is {error}.{hint}"
        raise InvalidRequest.of(message, field, text, error.expected) from None


def is_task_id(text: str) -> bool:
    """Whether this is a UUID in lower case. Raises nothing."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
