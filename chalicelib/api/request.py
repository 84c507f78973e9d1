"""What a Chalice request carries: body, Idempotency-Key, query, and the task id in its path."""

from collections.abc import Mapping, Sequence
from email.message import Message
from http import HTTPStatus
from urllib.parse import unquote

from chalice.app import Request

from chalicelib.api.fields import is_task_id
from chalicelib.api.responses import HttpError
from chalicelib.errors import InvalidRequest, TaskNotFound, shortened

BODY_BYTES_MAX = 65_536
BATCH_PATH = "/tasks"
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""100 payloads of 32 KiB fit. Lambda takes 6 MB; the body as quoted text must fit in."""
KEY_CHARS_MAX = 255


def json_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body, announced as JSON and at most this long.

    Raises HttpError 415 or 413, and InvalidRequest for a body that cannot be decoded.
    """
    _check_content_type(header(request, "Content-Type") or "")
    try:
        body = request.raw_body
    except ValueError:  # Lone surrogates, or invalid base64.
        raise InvalidRequest("The body cannot be decoded.", field="body") from None
    if len(body) > bytes_max:
        raise too_large(bytes_max)
    return body if isinstance(body, bytes) else body.encode()


def idempotency_key(request: Request) -> str | None:
    """None if none was sent. Raises InvalidRequest for one that cannot be used."""
    key = header(request, "Idempotency-Key")
    if key is not None and not _is_usable(key):
        message = "Idempotency-Key cannot be used."
        expected = f"1 to {KEY_CHARS_MAX} printable ASCII characters"
        raise InvalidRequest.of(message, "Idempotency-Key", key, expected)
    return key


def query_values(request: Request) -> Mapping[str, Sequence[str]]:
    """All values of each parameter of the query."""
    query = request.query_params
    return {} if query is None else {name: query.getlist(name) for name in query}


def path_task_id(segment: str) -> str:
    """The task id that a segment of the path holds, in capitals or percent-encoded too.

    Raises TaskNotFound for what can be no id.
    """
    task_id = unquote(segment).lower()
    if not is_task_id(task_id):
        raise TaskNotFound(id=shortened(segment))
    return task_id


def header(request: Request, name: str) -> str | None:
    """The value of a header, None if it was not sent. Raises InvalidRequest for several values."""
    values = _sent_values(request, name)
    return _one_value(name, values) if values else request.headers.get(name)


def header_values(request: Request, name: str) -> Sequence[str]:
    """All values of a header, without the blanks around them."""
    sent = _sent_values(request, name)
    values = sent or ([request.headers[name]] if name in request.headers else [])
    return [value.strip() for value in values]


def body_bytes_max(path: str) -> int:
    """How long the body of a request to this path may be. path: with or without a query."""
    return BATCH_BYTES_MAX if path.partition("?")[0] == BATCH_PATH else BODY_BYTES_MAX


def too_large(bytes_max: int) -> HttpError:
    """For a body of more bytes."""
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The body is too large.",
        details={"field": "body", "expected": f"at most {bytes_max} bytes"},
    )


def _sent_values(request: Request, name: str) -> Sequence[str]:
    """The local server and API Gateway give all values; Chalice keeps the last one only."""
    sent = request.to_original_event().get("multiValueHeaders") or {}
    return [value for key in sent if key.lower() == name.lower() for value in sent[key]]


def _is_usable(key: str) -> bool:
    is_text = key.isascii() and key.isprintable() and key == key.strip()
    return is_text and 1 <= len(key) <= KEY_CHARS_MAX


def _check_content_type(text: str) -> None:
    message = Message()
    message["Content-Type"] = text
    is_json = message.get_content_type() == "application/json"
    if not is_json or message.get_content_charset("utf-8") != "utf-8":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON, and Content-Type must say so.",
            details={
                "field": "Content-Type",
                "got": shortened(text),
                "expected": "application/json",
            },
        )


def _one_value(name: str, values: Sequence[str]) -> str:
    first, *others = (value.strip() for value in values)
    if any(value != first for value in others):
        got = ", ".join([first, *others])
        raise InvalidRequest.of(f"{name} is given more than once.", name, got, "one value")
    return first
