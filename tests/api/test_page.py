"""The page as it is served: headers, addresses, weight. What it does, tests/browser shows."""

import http.client
import re
from html.parser import HTMLParser

import pytest
from chalice.test import HTTPResponse

import app as entry
from chalicelib.api.page import FILES, POLICY, page_file
from tests.support.api_service import Service, lambda_event
from tests.support.local_server import served

BYTES_MAX = 100_000
ABSOLUTE = re.compile(r"""(?:["'`(]/\w|\bhttps?://|["'(]//)""")
SVG = "http://www.w3.org/2000/svg"
"""A name, not an address."""


def get(service: Service, path: str, **headers: str) -> HTTPResponse:
    return service.http.get(path, headers=headers)


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_served_with_its_headers(service: Service, path: str) -> None:
    response = get(service, path)
    assert response.status_code == 200
    assert response.body.decode() == page_file(path).text
    assert response.headers["Content-Type"] == f"{FILES[path][1]}; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Content-Security-Policy"] == POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_policy_lets_nothing_in_but_our_own_files() -> None:
    directives = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert directives["default-src"] == directives["frame-ancestors"] == "'none'"
    assert {directives[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("path", FILES)
def test_a_browser_that_has_the_file_gets_it_once(service: Service, path: str) -> None:
    etag = get(service, path).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = get(service, path, **{"If-None-Match": known})
        assert (again.status_code, again.body, again.headers["ETag"]) == (304, b"", etag)
    assert get(service, path, **{"If-None-Match": '"other"'}).status_code == 200


def test_over_the_local_server_a_304_has_no_length() -> None:
    with served() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(2):
            connection.request("GET", "/", headers={"If-None-Match": page_file("/").etag})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (304, b"")
            assert answer.getheader("Content-Length") is None
        connection.close()


def test_together_they_are_small() -> None:
    sizes = {path: len(page_file(path).text.encode()) for path in FILES}
    assert sum(sizes.values()) < BYTES_MAX


# A stage of API Gateway


def at_stage(path: str, query: dict[str, list[str]] | None = None) -> dict[str, object]:
    event = lambda_event(headers={}, body=None, multiValueQueryStringParameters=query)
    event["requestContext"] = {"httpMethod": "GET", "resourcePath": "/", "path": path}
    answer: dict[str, object] = entry.app(event, None)
    return answer


def test_a_stage_without_a_slash_leads_to_the_one_with_it() -> None:
    answer = at_stage("/prod")
    assert answer["statusCode"] == 308
    assert dict(answer["headers"])["Location"] == "prod/?slash"  # type: ignore[call-overload]


def test_there_the_page_is_and_no_gateway_turns_it_in_a_circle() -> None:
    assert at_stage("/prod/")["statusCode"] == 200
    assert at_stage("/prod", {"slash": [""]})["statusCode"] == 200


@pytest.mark.parametrize("path", FILES)
def test_addresses_are_relative_and_nothing_comes_from_elsewhere(path: str) -> None:
    text = page_file(path).text.replace(SVG, "")
    lines = [line for line in text.splitlines() if ABSOLUTE.search(line)]
    assert lines == []


class Inline(HTMLParser):
    """Collects what the policy would refuse in a document, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.loaded: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.refused.append(f"{tag} {name}")
            if name == "src" or (name == "href" and tag == "link"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.refused.append(f"{self._within}: {data}")


def test_the_document_has_no_inline_script_or_style() -> None:
    found = Inline()
    found.feed(page_file("/").text)
    assert found.refused == []
    assert [one for one in found.loaded if not one.startswith("data:")] == ["page.css", "page.js"]


def test_the_script_makes_no_markup_of_text() -> None:
    script = page_file("/page.js").text
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in script
    assert "localStorage" not in script
