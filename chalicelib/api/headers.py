"""Headers of every answer: the request id, what keeps browsers from mistakes, and CORS."""

import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence

from chalicelib.api.keys import KEY_PREFIX

REQUEST_ID_HEADER = "X-Request-Id"
SECURITY_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""An answer that sets one of them itself keeps its own."""
CORS_MAX_AGE_S = 600

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TAKEN = "Authorization, Content-Type, Idempotency-Key, X-Request-Id"
_SHOWN = (
    "Idempotency-Replayed, Location, Retry-After, Server-Timing, WWW-Authenticate, X-Request-Id"
)


def request_id_of(values: Sequence[str]) -> str:
    """The id that the client gave, if it gave one that can be used; else a fresh one."""
    given = set(values)
    text = given.pop() if len(given) == 1 else ""
    is_usable = _REQUEST_ID.fullmatch(text) and KEY_PREFIX not in text
    return text if is_usable else str(uuid.uuid4())


def common_headers(request_id: str) -> dict[str, str]:
    """What every answer has."""
    return {**SECURITY_HEADERS, REQUEST_ID_HEADER: request_id}


def cors_headers(
    origins: Collection[str], origin: str | None, preflight_of: Iterable[str] | None
) -> dict[str, str]:
    """For an answer to the page of a site. Empty where CORS is off.

    origins: those that may call. origin: where the request comes from.
    preflight_of: the methods of its path, for an answer to OPTIONS.
    """
    if not origins:
        return {}
    headers = {"Vary": "Origin"}
    if origin not in origins:
        return headers
    headers["Access-Control-Allow-Origin"] = str(origin)
    if preflight_of is None:
        return headers | {"Access-Control-Expose-Headers": _SHOWN}
    return headers | {
        "Access-Control-Allow-Methods": ", ".join(preflight_of),
        "Access-Control-Allow-Headers": _TAKEN,
        "Access-Control-Max-Age": str(CORS_MAX_AGE_S),
    }
