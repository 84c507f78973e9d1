"""What stands around every view: the request id, who may call, the log of writes, headers."""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from chalice.app import Request, Response

from chalicelib.api.access import caller_of, check_access, needed_scope
from chalicelib.api.failures import http_error
from chalicelib.api.headers import (
    REQUEST_ID_HEADER,
    common_headers,
    cors_headers,
    request_id_of,
)
from chalicelib.api.keys import Scope
from chalicelib.api.request import header_values
from chalicelib.api.responses import HttpError
from chalicelib.api.settings import ApiSettings
from chalicelib.request_id import REQUEST_ID

log = logging.getLogger(__name__)

Routes = Mapping[str, Mapping[str, Any]]
"""Views by path and method. What is not routed is answered by Chalice, for everybody: 405."""


class Middleware:
    """settings: gives those of this process. Raises InvalidSetting as long as they are none."""

    def __init__(self, routes: Routes, settings: Callable[[], ApiSettings]) -> None:
        self._routes = routes
        self._settings = settings

    def __call__(self, request: Request, get_response: Callable[[Request], Response]) -> Response:
        if request is None:  # Whoever calls the function sent no request of API Gateway's.
            return get_response(request)
        request_id = request_id_of(header_values(request, REQUEST_ID_HEADER))
        before = REQUEST_ID.set(request_id)
        try:
            response = self._answer(request, get_response)
        finally:
            REQUEST_ID.reset(before)
        # A new one: the one that came may be the answer to many requests.
        headers = common_headers(request_id) | self._cors(request) | response.headers
        return Response(response.body, headers, response.status_code)

    def _answer(self, request: Request, get_response: Callable[[Request], Response]) -> Response:
        refusal = self.refusal(request)
        if refusal is None:
            response = get_response(request)
            _log_write(request, response)
            return response
        if refusal.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            extra = _about(request, "refused", refusal.status)
            log.warning("refused: %s", refusal, extra=extra)
        return refusal.response()

    def refusal(self, request: Request) -> HttpError | None:
        """Why this request is not let in, as far as its head tells; None if it is."""
        if request.method not in self._routes.get(request.path, ()):
            return None
        try:
            check_access(request, self._settings())
        except Exception as error:
            return http_error(error)
        return None

    def _cors(self, request: Request) -> dict[str, str]:
        try:
            origins = self._settings().cors_origins
        except Exception:  # It was answered with 500, and logged.
            return {}
        origin = next(iter(header_values(request, "Origin")), None)
        methods = self._routes.get(request.path, ())
        return cors_headers(origins, origin, methods if request.method == "OPTIONS" else None)


def _log_write(request: Request, response: Response) -> None:
    """A line for each write of a caller who is known by name."""
    caller = caller_of(request)
    if caller is None or needed_scope(request.method, request.path) is not Scope.WRITE:
        return
    location = str(response.headers.get("Location", "")).rpartition("/")[2]
    extra = _about(request, "write", response.status_code) | {
        "key": caller,
        "task_id": (request.uri_params or {}).get("id") or location or None,
    }
    log.info("%s %s by %s", request.method, request.path, caller, extra=extra)


def _about(request: Request, action: str, status: int) -> dict[str, object]:
    return {
        "action": action,
        "method": request.method,
        "path": request.path,
        "status": int(status),
    }
