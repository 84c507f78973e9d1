"""The page: three files, which tell browsers what they may do and whether they have changed."""

import functools
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from chalice.app import Request, Response

from chalicelib.api.request import header_values, query_values

FOLDER = Path(__file__).parent.parent / "page"
FILES: Mapping[str, tuple[str, str]] = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""Name and media type by path. To GET them needs no key: the calls that the page makes do."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy. The last two refuse innerHTML and its like."""
SLASH = "slash"


class PageFile(NamedTuple):
    text: str
    media_type: str
    etag: str


@functools.cache
def page_file(path: str) -> PageFile:
    """path: one of FILES."""
    name, media_type = FILES[path]
    content = (FOLDER / name).read_bytes()
    return PageFile(content.decode(), media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def page(request: Request) -> Response:
    """The file at the path of the request, or 304 if the browser has it. 308: add a slash."""
    if (location := _with_slash(request)) is not None:
        return Response("", {"Location": location}, HTTPStatus.PERMANENT_REDIRECT)
    file = page_file(request.path)
    headers: dict[str, str | list[str]] = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Content-Type": f"{file.media_type}; charset=utf-8",
        "ETag": file.etag,
    }
    known = ",".join(header_values(request, "If-None-Match"))
    if file.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        return Response("", headers, HTTPStatus.NOT_MODIFIED)
    return Response(file.text, headers)


def _with_slash(request: Request) -> str | None:
    """Where `/stage` has to lead, so that the page's relative addresses are below the stage.

    The parameter keeps it from going on for ever behind a gateway that tells no slash.
    """
    whole = str(request.context.get("path") or "/")
    if request.path != "/" or whole.endswith("/") or SLASH in query_values(request):
        return None
    return f"{whole.rpartition('/')[2]}/?{SLASH}"
