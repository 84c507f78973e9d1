"""The one JSON object in a body. Stricter than `json` where RFC 8259 leaves the choice."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from chalicelib.errors import GOT_CHARS_MAX, InvalidRequest, shortened
from chalicelib.task_types import payload

_EXPECTED = "a JSON object"


def json_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest unless the body is one JSON object in UTF-8, each name given once."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.", repr(body[:GOT_CHARS_MAX])[2:-1]) from None
    except json.JSONDecodeError as error:
        raise _invalid(f"The body is not JSON: {error}.", text) from None
    except ValueError:
        raise _invalid("The body holds too long a number.") from None
    except RecursionError:
        raise _invalid("The body is nested too deeply.") from None
    if not isinstance(value, dict):
        raise _invalid("The body must be a JSON object.", payload.shown(value))
    return value


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            message = f"{shortened(name)} is given twice."
            raise InvalidRequest.of(message, name, expected="each name once")
        fields[name] = value
    return fields


def _no_constant(name: str) -> NoReturn:
    raise _invalid(f"The body is not JSON: {name}.", name)


def _invalid(message: str, got: str | None = None) -> InvalidRequest:
    return InvalidRequest.of(message, "body", got, _EXPECTED)
