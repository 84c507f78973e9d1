"""Every answer tells in `Server-Timing` what it cost the store."""

from collections.abc import Callable
from typing import Any

from chalice.app import Response

from chalicelib.store import cost


def server_timing(event: Any, get_response: Callable[[Any], Response]) -> Response:
    """A middleware of Chalice. Adds `store;dur=<ms>;desc="<n> requests"`."""
    with cost.counted() as counted:
        response = get_response(event)
    plural = "" if counted.requests == 1 else "s"
    value = f'store;dur={counted.waited_s * 1000:.1f};desc="{counted.requests} request{plural}"'
    headers = {**response.headers, "Server-Timing": value}
    return Response(response.body, headers, response.status_code)
