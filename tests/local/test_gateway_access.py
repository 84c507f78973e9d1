"""The local server of an API with keys, over real sockets, and the headers of its own answers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import app as entry
from chalicelib.api.headers import SECURITY_HEADERS
from chalicelib.api.settings import ApiSettings
from local import crowd, gateway
from local.settings import ROOT
from tests.local.test_gateway import BODY, GARBAGE, Answer, Line, post, raw
from tests.support.keys import READ, WRITE, keyed
from tests.support.local_server import served

TOLD = (
    f"{crowd.CONNECTIONS_MAX} connections",
    f"head must come within {gateway.HEAD_S:g} s",
    f"body within {gateway.BODY_S:g} s",
    f"pause of {gateway.BODY_IDLE_S:g} s",
    f"idle for {gateway.IDLE_S:g} s",
    "HORIZON_DAYS",
    "CREATES_PER_MINUTE",
)
"""What is promised of limits."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "api_settings", keyed)
        patch.setattr(gateway, "BODY_IDLE_S", 0.3)
        patch.setattr(gateway, "DISCARD_S", 0.3)
        patch.setattr(gateway, "HEAD_S", 0.5)
        with served() as port:
            yield port


def head(key: str | None, *lines: str) -> bytes:
    given = ["Content-Type: application/json", *lines]
    given += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join(given).encode()


@pytest.mark.parametrize(("key", "status"), [(None, 401), (READ, 403)])
@pytest.mark.parametrize(
    "announced", ["Content-Length: 60000", "Transfer-Encoding: chunked", "Content-Length: x"]
)
def test_who_may_not_write_is_told_before_the_body_comes(
    port: int, key: str | None, status: int, announced: str
) -> None:
    with Line(port) as line:
        line.send(post(head(key, announced)))
        answer = line.answer()
        assert answer.error()["Code"] == status
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["Connection"] == "close"
        assert line.is_closed()


@pytest.mark.parametrize(("key", "status"), [(None, 401), (READ, 403)])
def test_who_asks_first_is_not_told_to_go_on(port: int, key: str | None, status: int) -> None:
    lines = f"Content-Length: {len(BODY)}", "Expect: 100-continue"
    with Line(port) as line:
        line.send(post(head(key, *lines)))
        assert line.socket.recv(12) == f"HTTP/1.1 {status}".encode()


def test_a_refused_body_is_read_off_and_the_answer_not_lost(port: int) -> None:
    answer = raw(port, post(head(None, "Content-Length: 3000000"), b"x" * 3_000_000))
    assert answer.error()["Type"] == "Unauthorized"


def test_who_may_write_writes_and_the_connection_stays(port: int) -> None:
    with Line(port) as line:
        for _ in range(2):
            line.send(post(head(WRITE, f"Content-Length: {len(BODY)}"), BODY))
            assert line.answer().status == 201
        line.send(b"GET /task HTTP/1.1\r\n\r\n")
        assert line.answer().error()["Type"] == "Unauthorized"
        line.send(b"GET /health HTTP/1.1\r\n\r\n")
        assert line.answer().status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_an_unknown_path_is_404_for_everybody(port: int, method: str) -> None:
    """API Gateway answers it before the app sees it, and /openapi.json tells what is there."""
    answer = raw(port, f"{method} /nothing HTTP/1.1\r\n\r\n".encode(), method)
    assert answer.status == 404
    has_them(answer)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "BREW"])
def test_another_method_is_405_for_everybody(port: int, method: str) -> None:
    answer = raw(port, f"{method} /task HTTP/1.1\r\n\r\n".encode(), method)
    assert (answer.status, set(answer.headers["Allow"].split(", "))) == (405, {"GET", "POST"})


def test_two_keys_are_refused_and_none_is_shown(port: int) -> None:
    both = head(WRITE) + b"\r\n" + head(READ)
    answer = raw(port, b"GET /task HTTP/1.1\r\n" + both + b"\r\n\r\n")
    assert answer.error()["Details"] == {"field": "Authorization", "expected": "one value"}
    assert b"schedkey_" not in answer.body


def test_a_setting_that_cannot_be_used_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "api_settings", lambda: ApiSettings.from_env({"API_KEYS": "x"}))
    with served() as port:
        answer = raw(port, post(head(WRITE, f"Content-Length: {len(BODY)}"), BODY))
        assert answer.error()["Type"] == "InternalError"


def test_a_preflight_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    site = "https://app.example.org"
    settings = replace(keyed(), cors_origins=frozenset({site}))
    monkeypatch.setattr(entry, "api_settings", lambda: settings)
    for path, views in entry.app.routes.items():
        monkeypatch.setitem(entry.app.routes, path, dict(views))
    entry.add_preflights()
    asked = f"Origin: {site}\r\nAccess-Control-Request-Method: POST"
    with served() as port, Line(port) as line:
        line.send(f"OPTIONS /task HTTP/1.1\r\n{asked}\r\n\r\n".encode())
        answer = line.answer("OPTIONS")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == site
        has_them(answer)
        line.send(post(f"Origin: {site}\r\nContent-Length: {len(BODY)}".encode(), BODY))
        refused = line.answer()
        assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, site)


# Headers


def has_them(answer: Answer) -> None:
    assert dict(SECURITY_HEADERS).items() <= dict(answer.headers).items()
    assert len(answer.headers.get_all("X-Request-Id") or []) == 1


@pytest.mark.parametrize(("name", "data", "type"), GARBAGE, ids=[name for name, *_ in GARBAGE])
def test_what_is_no_request_has_them_too(port: int, name: str, data: bytes, type: str) -> None:
    has_them(raw(port, data))


def test_the_id_is_the_request_s_own_on_a_connection_of_many(port: int) -> None:
    with Line(port) as line:
        line.send(b"GET /task HTTP/1.1\r\nX-Request-Id: one\r\n\r\n")
        assert line.answer().headers["X-Request-Id"] == "one"
        line.send(b"GET /nothing HTTP/1.1\r\nX-Request-Id: two\r\n\r\n")
        assert line.answer().headers["X-Request-Id"] == "two"
        line.send(b"garbage\r\n\r\n")
        assert len(line.answer().headers["X-Request-Id"]) == 36


def test_who_finds_no_place_gets_them() -> None:
    text = gateway.full_answer().decode()
    lines = text.partition("\r\n\r\n")[0].split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines)
    assert dict(SECURITY_HEADERS).items() <= headers.items()
    assert len(headers["X-Request-Id"]) == 36
    assert int(headers["Content-Length"]) == len(text.partition("\r\n\r\n")[2])


# What is promised of connections and times


def test_the_limits_are_those_that_are_told() -> None:
    document: Any = json.loads((ROOT / "chalicelib" / "api" / "openapi.json").read_text())
    page = " ".join((ROOT / "docs" / "api.md").read_text().split())
    for text in (document["info"]["description"], page):
        assert [told for told in TOLD if told not in text] == []
