"""What the local server answers by itself: the app never sees these requests."""

from http import HTTPStatus

from chalicelib.api.failures import RETRY_AFTER_S
from chalicelib.api.responses import HttpError
from chalicelib.errors import shortened


def malformed(field: str, got: str | None, expected: str) -> HttpError:
    """For a head or a body that cannot be read."""
    details = {"field": field, "expected": expected}
    if got is not None:
        details["got"] = shortened(got)
    return HttpError(HTTPStatus.BAD_REQUEST, f"{field} cannot be read.", details=details)


def unknown_path(path: str) -> HttpError:
    """For a path without a view."""
    message = "There is nothing at this path."
    return HttpError(HTTPStatus.NOT_FOUND, message, details={"path": shortened(path)})


def server_busy() -> HttpError:
    """For a connection that the server has no room for."""
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "This server has too many connections. Nothing was changed; try again later.",
        type="ServerBusy",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
