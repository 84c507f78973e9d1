"""What a handler takes beside its run: its keyword parameters are the schema of the payload.

    @handles("Paint")
    async def paint(run: Run, *, colour: str, size: int = 1) -> str: ...

They are turned into a JSON Schema once. A payload is checked against it when its task is created,
kept as text, and handed to the handler as keyword arguments.
"""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from chalicelib.errors import InvalidRequest, shortened

Schema = Mapping[str, Any]

BYTES_MAX = 32_768
DEPTH_MAX = 100
"""Arrays and objects within each other: far from where Python's own JSON gives up."""

_NAMES: Mapping[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    None: "null",
    NoneType: "null",
}
_WORDS: Mapping[str, str] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


@functools.cache
def schema(handler: Callable[..., Any]) -> Schema:
    """The schema of the handler's payload. Raises TypeError if it is not made for one."""
    _, *parameters = inspect.signature(handler, eval_str=True).parameters.values()
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{handler}: {parameter.name} must be a keyword-only parameter")
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    return {
        "type": "object",
        "properties": {p.name: _schema_of(p.annotation) for p in parameters},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _schema_of(annotation: Any) -> Schema:
    if annotation is Any:
        return {}
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return {"anyOf": [_schema_of(part) for part in parts]}
    if origin is list:
        return {"type": "array", "items": _schema_of(parts[0])}
    if origin is dict and parts[0] is str:
        return {"type": "object", "additionalProperties": _schema_of(parts[1])}
    if annotation not in _NAMES:
        raise TypeError(f"a payload cannot hold {annotation!r}")
    return {"type": _NAMES[annotation]}


def checked(given: object, task_type: str, handler: Callable[..., Any]) -> str:
    """The text of a payload that this type takes. Raises InvalidRequest for any other."""
    if not isinstance(given, dict):
        expected = "a JSON object"
        raise InvalidRequest.of("payload must be a JSON object.", "payload", shown(given), expected)
    try:
        text = text_of(given)
    except ValueError as error:
        expected = "JSON that every reader can read"
        message = f"payload cannot be used: {error}."
        raise InvalidRequest.of(message, "payload", expected=expected) from None
    size = len(text.encode())
    if size > BYTES_MAX:
        expected = f"at most {BYTES_MAX} bytes"
        raise InvalidRequest.of("payload is too large.", "payload", f"{size} bytes", expected)
    _must_fit(given, task_type, schema(handler))
    return text


def _must_fit(given: Mapping[str, Any], task_type: str, schema: Schema) -> None:
    known = schema["properties"]
    for name, value in given.items():
        field = f"payload.{name}"
        if name not in known:
            fields = ", ".join(f"payload.{name}" for name in known) or "no payload"
            message = f"{task_type} takes no {shortened(field)}."
            raise InvalidRequest.of(message, field, expected=fields)
        if not fits(value, known[name]):
            message = f"{field} does not fit."
            raise InvalidRequest.of(message, field, shown(value), expected(known[name]))
    for name in schema.get("required", ()):
        if name not in given:
            field = f"payload.{name}"
            raise InvalidRequest.of(f"{field} is missing.", field, expected=expected(known[name]))


def shown(value: object) -> str:
    """A JSON value in a few words."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return json.dumps(value)


def fits(value: object, schema: Schema) -> bool:
    """Whether a JSON value is of such a kind. A boolean is no number."""
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    match schema.get("type"):
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            return isinstance(value, list) and _all_fit(value, schema.get("items", {}))
        case "object":
            inner = schema.get("additionalProperties", {})
            return isinstance(value, dict) and _all_fit(value.values(), inner)
    return True


def _all_fit(values: Iterable[object], schema: Schema) -> bool:
    return all(fits(value, schema) for value in values)


def expected(schema: Schema) -> str:
    """The kind of value in words."""
    if "anyOf" in schema:
        return " or ".join(expected(part) for part in schema["anyOf"])
    words = _WORDS.get(schema.get("type", ""), "any value")
    inner = schema.get("items") or schema.get("additionalProperties")
    return f"{words} of which each is {expected(inner)}" if inner else words


def text_of(value: object) -> str:
    """The one text of a JSON value. Raises ValueError if it has none, or is nested too deeply."""
    if _depth(value) > DEPTH_MAX:
        raise ValueError(f"it is nested deeper than {DEPTH_MAX} levels")
    text = json.dumps(
        value, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    text.encode()
    return text


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level := [part for whole in level for part in _parts(whole)]:
        depth += 1
    return depth


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
