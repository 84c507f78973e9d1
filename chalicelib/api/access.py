"""Who may make a request: by an API key, by API Gateway's IAM authorization, or anybody."""

import re
from collections.abc import Mapping
from http import HTTPStatus

from chalice.app import Request

from chalicelib.api.keys import KEY_PREFIX, ApiKey, Scope, found_key
from chalicelib.api.page import FILES
from chalicelib.api.request import header_values, query_values
from chalicelib.api.responses import HttpError
from chalicelib.api.settings import ApiSettings, Auth
from chalicelib.errors import InvalidRequest

OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json", *FILES})
"""To GET them needs no key."""

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)
_REALM = 'Bearer realm="scheduler"'
_IN_URL = "access_token"
_CALLER = "caller"


def needed_scope(method: str, path: str) -> Scope | None:
    """What a call needs; None: nothing. What is not known to be open is not.

    path: as it is routed, such as /task/{id}.
    """
    if method == "OPTIONS" or (method == "GET" and path in OPEN_PATHS):
        return None
    return Scope.READ if method == "GET" else Scope.WRITE


def check_access(request: Request, settings: ApiSettings) -> None:
    """Let the request pass, and note who makes it. Looks at its head only.

    Raises HttpError 401 or 403, and InvalidRequest for a key in the wrong place.
    """
    _refuse_key_in_url(request)
    needed = needed_scope(request.method, request.path)
    if needed is None or settings.auth is Auth.NONE:
        return
    if settings.auth is Auth.CLOSED:
        raise HttpError(
            HTTPStatus.FORBIDDEN,
            "Nobody may call this service yet. Set API_KEYS (`python -m deploy key NAME"
            " --scope write` makes a key), API_AUTH=iam, or API_AUTH=none.",
        )
    request.context[_CALLER] = (
        _iam_name(request) if settings.auth is Auth.IAM else _key_of(request, settings, needed).name
    )


def caller_of(request: Request) -> str | None:
    """The name of who makes this request; None where nobody has to tell."""
    name: str | None = request.context.get(_CALLER)
    return name


def _key_of(request: Request, settings: ApiSettings, needed: Scope) -> ApiKey:
    presented = _presented(request)
    if presented is None:
        raise _unauthorized("This needs an API key.", _REALM)
    key = found_key(settings.keys, presented)
    if key is None:
        raise _unauthorized("The API key is not known.", f'{_REALM}, error="invalid_token"')
    if not key.scope.includes(needed):
        raise HttpError(
            HTTPStatus.FORBIDDEN,
            "This API key may only read.",
            details={"field": "Authorization", "expected": f"a key with scope {needed}"},
            headers=_challenge(f'{_REALM}, error="insufficient_scope", scope="{needed}"'),
        )
    return key


def _presented(request: Request) -> str | None:
    """The token of `Authorization: Bearer`. No error shows it."""
    values = header_values(request, "Authorization")
    if len(set(values)) > 1:
        message = "Authorization is given more than once."
        raise InvalidRequest.of(message, "Authorization", expected="one value")
    found = _BEARER.fullmatch(values[0]) if values else None
    return found[1] if found else None


def _refuse_key_in_url(request: Request) -> None:
    for name, values in query_values(request).items():
        if name == _IN_URL or any(KEY_PREFIX in text for text in (name, *values)):
            raise InvalidRequest.of(
                "A key in a URL ends in logs. Do not use this one any more.",
                "query",
                expected="Authorization: Bearer",
            )


def _iam_name(request: Request) -> str:
    """The ARN of the user or role that API Gateway has found; of a role without its session."""
    identity: Mapping[str, str | None] = request.context.get("identity") or {}
    arn = identity.get("userArn")
    if not arn:
        raise HttpError(
            HTTPStatus.FORBIDDEN,
            "API_AUTH=iam is set, and API Gateway did not tell who calls: deploy with API_AUTH"
            " in the stage's environment, so that it asks.",
        )
    return arn.rpartition("/")[0] if ":assumed-role/" in arn else arn


def _unauthorized(message: str, challenge: str) -> HttpError:
    details = {"field": "Authorization", "expected": "Bearer and an API key"}
    return HttpError(
        HTTPStatus.UNAUTHORIZED, message, details=details, headers=_challenge(challenge)
    )


def _challenge(text: str) -> Mapping[str, str]:
    """As RFC 6750, 3."""
    return {"WWW-Authenticate": text}
