"""What a handler takes beside its run: its keyword parameters are the schema of the payload.

    @handles("Paint")
    async def paint(run: Run, *, colour: str, size: int = 1) -> str: ...

They are turned into a msgspec Struct once. A payload is checked against it when its task is
created, and kept as the client gave it. It is converted when the handler is called.
"""

import functools
import inspect
import json
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from chalicelib.errors import InvalidRequest, shortened
from chalicelib.task_types import expected, mismatch
from chalicelib.task_types.mismatch import Kind, Mismatch, Step

BYTES_MAX = 32_768
DEPTH_MAX = 100
"""Arrays and objects within each other: far from where Python's own JSON gives up."""


@functools.cache
def schema(handler: Callable[..., Any]) -> expected.Schema:
    """The JSON Schema of the handler's payload, without references.

    Raises TypeError if its parameters cannot be the schema of a payload.
    """
    struct = _decoder(handler).type
    (named,), components = msgspec.json.schema_components([struct], ref_template="{name}")
    whole: dict[str, Any] = _inlined(named, components, ())
    del whole["title"]
    return whole if whole["required"] else {k: v for k, v in whole.items() if k != "required"}


@functools.cache
def _decoder(handler: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    _, *parameters = inspect.signature(handler, eval_str=True).parameters.values()
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{handler}: {parameter.name} must be a keyword-only parameter")
        if parameter.annotation is inspect.Parameter.empty or parameter.name.startswith("__"):
            raise TypeError(f"{handler}: {parameter.name} must have an annotation and a plain name")
    fields = [_field(parameter) for parameter in parameters]
    struct = msgspec.defstruct("Payload", fields, kw_only=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(struct)


def _field(parameter: inspect.Parameter) -> Any:
    """What a client leaves out is left to the handler's own default."""
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, parameter.annotation
    return parameter.name, parameter.annotation | msgspec.UnsetType, msgspec.UNSET


def _inlined(part: Any, components: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """The schema with each reference replaced by what it names."""
    if isinstance(part, list):
        return [_inlined(item, components, within) for item in part]
    if not isinstance(part, dict):
        return part
    own = {
        key: _inlined(value, components, within)
        for key, value in part.items()
        if key != "$ref" and not (key == "discriminator" and "mapping" in value)
    }
    name = part.get("$ref")
    if name is None:
        return own
    if name in within:
        raise TypeError(f"a payload cannot hold {name}, which holds itself")
    return _inlined(components[name], components, (*within, name)) | own


def checked(given: object, task_type: str, handler: Callable[..., Any]) -> str:
    """The text of a payload that this type takes. Raises InvalidRequest for any other."""
    if not isinstance(given, dict):
        wanted = "a JSON object"
        raise InvalidRequest.of("payload must be a JSON object.", "payload", shown(given), wanted)
    try:
        text = text_of(given)
    except ValueError as error:
        wanted = "JSON that every reader can read"
        message = f"payload cannot be used: {error}."
        raise InvalidRequest.of(message, "payload", expected=wanted) from None
    size = len(text.encode())
    if size > BYTES_MAX:
        wanted = f"at most {BYTES_MAX} bytes"
        raise InvalidRequest.of("payload is too large.", "payload", f"{size} bytes", wanted)
    arguments(text, task_type, handler)
    return text


def arguments(text: str, task_type: str, handler: Callable[..., Any]) -> dict[str, Any]:
    """The handler's keyword arguments, converted from the text of a payload.

    Raises InvalidRequest if the payload does not fit the handler.
    """
    try:
        values = msgspec.structs.asdict(_decoder(handler).decode(text))
    except msgspec.ValidationError as error:
        raise _refused(mismatch.read(error), json.loads(text), task_type, handler) from None
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def _refused(
    found: Mismatch, given: object, task_type: str, handler: Callable[..., Any]
) -> InvalidRequest:
    place, taken = f"payload{found.path}", schema(handler)
    field = f"{place}.{found.name}"
    match found.kind:
        case Kind.UNKNOWN:
            names = (f"{place}.{name}" for name in expected.names_at(taken, found.steps))
            message = f"{task_type} takes no {shortened(field)}."
            return InvalidRequest.of(message, field, expected=", ".join(names) or "no payload")
        case Kind.MISSING:
            wanted = expected.at(taken, [*found.steps, found.name])
            return InvalidRequest.of(f"{field} is missing.", field, expected=wanted)
        case Kind.NAME:
            message = f"A name in {place} does not fit."
            return InvalidRequest.of(message, place, expected=found.expected)
    wanted = found.expected or expected.at(taken, found.steps)
    got = _shown_at(given, found.steps) or found.got
    return InvalidRequest.of(f"{place} does not fit.", place, got, wanted)


def _shown_at(given: object, steps: Iterable[Step]) -> str | None:
    try:
        return shown(functools.reduce(operator.getitem, steps, given))  # type: ignore[arg-type]
    except (LookupError, TypeError):
        return None


def shown(value: object) -> str:
    """A JSON value in a few words."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return json.dumps(value)


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
