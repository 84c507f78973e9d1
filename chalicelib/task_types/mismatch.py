"""Where a payload does not fit its type, read from the message of msgspec's error.

Such as "Expected `int`, got `str` - at `$.sizes[2]`", "Object contains unknown field `x`", or what
the type's own `__post_init__` said.
"""

import re
from collections.abc import Sequence
from enum import Enum, auto
from types import EllipsisType
from typing import NamedTuple

import msgspec

from chalicelib.times import TIME_EXPECTED

Step = str | int | EllipsisType
"""A name in an object, an index in an array, or some name that is not known."""

_MESSAGE = re.compile(r"(.*?)(?: - at (`key` in )?`\$([^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
_OF_MSGSPEC = re.compile(r"Expected `|Invalid |Only units |[A-Z][a-z ]* out of range")
_TIME = re.compile(r"Expected `[^`]*datetime|Invalid RFC3339 encoded datetime")
_GOT = re.compile(r"Expected `.*`, got `(\w+)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(\w+)`(?:, got `str`)?")
TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
"""JSON Schema's types in words."""
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
"""msgspec's names where they are others."""


class Kind(Enum):
    """What is wrong: a field that is not known, one that is missing, a name, or a value."""

    UNKNOWN = auto()
    MISSING = auto()
    NAME = auto()
    VALUE = auto()


class Mismatch(NamedTuple):
    """What does not fit.

    path: of the value, from the payload on, such as `.items[2]`; steps: the same in parts.
    name: of the field that is unknown or missing. got, expected: in words; None is left to whoever
    knows the value and the schema.
    """

    kind: Kind
    path: str
    steps: Sequence[Step]
    name: str = ""
    got: str | None = None
    expected: str | None = None


def read(error: msgspec.ValidationError) -> Mismatch:
    message = _MESSAGE.fullmatch(str(error))
    assert message, "it matches every text"
    reason, of_name, path = message[1], message[2], message[3] or ""
    steps = [_step(*parts) for parts in _STEP.findall(path)]
    if field := _FIELD.fullmatch(reason):
        kind = Kind.UNKNOWN if field[1] == "contains unknown" else Kind.MISSING
        return Mismatch(kind, path, steps, name=field[2])
    if of_name:
        return Mismatch(Kind.NAME, path, steps, expected=_EXPECTED.sub(_found_in_words, reason))
    got = _GOT.match(reason)
    return Mismatch(
        Kind.VALUE, path, steps, got=_in_words(got[1]) if got else None, expected=_expected(reason)
    )


def _expected(reason: str) -> str | None:
    """What the schema does not tell: that a text is a time, and what the type's author says."""
    if _TIME.match(reason):
        return TIME_EXPECTED
    return None if _OF_MSGSPEC.match(reason) else reason


def _found_in_words(found: re.Match[str]) -> str:
    return _in_words(found[1]) or found[1]


def _in_words(name: str) -> str | None:
    return TYPES.get(_JSON_TYPES.get(name, name))


def _step(name: str, index: str) -> Step:
    if name:
        return name
    return int(index) if index else ...
