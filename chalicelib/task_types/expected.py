"""What a JSON Schema expects at a place of a value, in words. It holds no references."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chalicelib.task_types.mismatch import TYPES, Step
from chalicelib.times import TIME_EXPECTED

Schema = Mapping[str, Any]

_FORMATS = {
    "date-time": TIME_EXPECTED,
    "date": "a date, such as 2030-01-31",
    "time": "a time of day with an offset, such as 12:00:00Z",
    "partial-time": "a time of day without offset, such as 12:00:00",
    "duration": "an ISO 8601 duration, such as PT90S",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} names",
    "maxProperties": "at most {} names",
}


def at(schema: Schema, steps: Iterable[Step]) -> str | None:
    """The kind of value at a place; None if nothing is known of it."""
    return " or ".join(_words(_parts_at(schema, steps))) or None


def names_at(schema: Schema, steps: Iterable[Step]) -> list[str]:
    """The fields that an object at a place may have."""
    parts = _parts_at(schema, steps)
    return list(dict.fromkeys(name for part in parts for name in part.get("properties", ())))


def _parts_at(schema: Schema, steps: Iterable[Step]) -> Iterable[Schema]:
    """The schemas of the value at a place: more than one in a union."""
    parts = [*_alternatives(schema)]
    for step in steps:
        inner = [_inside(part, step) for part in parts]
        parts = [part for one in inner if isinstance(one, dict) for part in _alternatives(one)]
    return parts


def _alternatives(schema: Schema) -> Iterator[Schema]:
    if "anyOf" not in schema:
        yield schema
    for part in schema.get("anyOf", ()):
        yield from _alternatives(part)


def _inside(schema: Schema, step: Step) -> object:
    if isinstance(step, int):
        first = schema.get("prefixItems", ())
        return first[step] if step < len(first) else schema.get("items")
    return schema.get("properties", {}).get(step) or schema.get("additionalProperties")


def _words(parts: Iterable[Schema]) -> Iterable[str]:
    return dict.fromkeys(map(_word, parts))


def _word(schema: Schema) -> str:
    if "enum" in schema:
        values = [json.dumps(value, ensure_ascii=False) for value in schema["enum"]]
        return ("one of " if len(values) > 1 else "") + ", ".join(values)
    kind = _FORMATS.get(schema.get("format", "")) or TYPES.get(schema.get("type", ""), "any value")
    if schema.get("contentEncoding") == "base64":
        kind = "a string in Base64"
    bounds = [said.format(schema[key]) for key, said in _BOUNDS.items() if key in schema]
    inner = schema.get("items") or schema.get("additionalProperties")
    each = f" of which each is {' or '.join(_words(_alternatives(inner)))}" if inner else ""
    return ", ".join([kind + each, *bounds])
