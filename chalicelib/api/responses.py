"""Responses: JSON bodies, and the one form of every failure.

{"Code": 404, "Message": "There is no such task.", "Type": "TaskNotFound", "Details": {…}}
"""

import json
from collections.abc import Mapping
from http import HTTPStatus

from chalice.app import Response

TYPE_BY_STATUS: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "InvalidRequest",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    HTTPStatus.REQUEST_TIMEOUT: "RequestTimeout",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "PayloadTooLarge",
    HTTPStatus.REQUEST_URI_TOO_LONG: "UriTooLong",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UnsupportedMediaType",
    HTTPStatus.EXPECTATION_FAILED: "ExpectationFailed",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "HeadersTooLarge",
    HTTPStatus.NOT_IMPLEMENTED: "NotImplemented",
    HTTPStatus.GATEWAY_TIMEOUT: "GatewayTimeout",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "HttpVersionNotSupported",
}
"""Failures of HTTP itself, not of the domain. API Gateway alone answers some of them."""


class HttpError(Exception):
    """A failure as the client sees it. The Type follows from the status unless it is given."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        type: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {
            "Code": int(status),
            "Message": message,
            "Type": type or TYPE_BY_STATUS[status],
            "Details": details or {},
        }

    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


def json_response(
    body: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Serialises the body here, not in Chalice, so that an error in it is answered too."""
    return Response(
        body=json.dumps(body, separators=(",", ":")),
        status_code=int(status),
        headers={"Content-Type": "application/json", **(headers or {})},
    )
