"""The audit of packages, against an index of advisories that answers as told."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from local import audit
from local.settings import ROOT
from tests.conftest import free_port

Answer = Callable[[list[Any]], bytes]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Starts one; returns its URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[HTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = answer(json.loads(self.rfile.read(size))["queries"])
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1/querybatch"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def holes(*names: str) -> Answer:
    def answer(queries: list[Any]) -> bytes:
        results = [
            {"vulns": [{"id": "GHSA-1"}, {"id": "CVE-2"}]} if q["package"]["name"] in names else {}
            for q in queries
        ]
        return json.dumps({"results": results}).encode()

    return answer


def test_a_known_hole_fails_and_is_named(
    index: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main({"AUDIT_URL": index(holes("chalice", "@dynoxide/linux-x64"))}) == 1
    told = capsys.readouterr().err
    versions = {package.name: package.version for package in audit.pinned(ROOT)}
    for name, ecosystem in (("chalice", "PyPI"), ("@dynoxide/linux-x64", "npm")):
        assert f"audit: {name} {versions[name]} ({ecosystem}): GHSA-1, CVE-2\n" in told
    assert f"audit: 2 of {len(set(audit.pinned(ROOT)))} packages" in told


def test_no_hole_is_well(
    index: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main({"AUDIT_URL": index(holes())}) == 0
    assert "0 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"results": [{}]}', b'{"results": null}']
)
def test_what_is_no_answer_is_skipped_with_a_word(
    index: Callable[[Answer], str], capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    assert audit.main({"AUDIT_URL": index(lambda _: body)}) == 0
    assert "audit: skipped" in capsys.readouterr().err


def test_where_none_can_be_reached_it_is_skipped_with_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert audit.main({"AUDIT_URL": f"http://127.0.0.1:{free_port()}/"}) == 0
    assert "cannot be reached" in capsys.readouterr().err


def test_an_index_that_is_silent_is_not_waited_for(
    index: Callable[[Answer], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "ANSWER_S", 0.1)
    done = threading.Event()

    def silent(queries: list[Any]) -> bytes:
        done.wait(10)
        return b""

    url = index(silent)
    assert audit.main({"AUDIT_URL": url}) == 0
    done.set()
    assert "audit: skipped" in capsys.readouterr().err


def test_every_pinned_package_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    texts = ["a==1.0\n# b==2\n", "c[x]==3 ; python_version > '3'\nd==4 \\\n  --hash=x\n", "e>=5\n"]
    for name, text in zip(audit.REQUIREMENTS, texts, strict=True):
        (tmp_path / name).write_text(text)
    lock = {"packages": {"": {}, "node_modules/@s/f": {"version": "6"}}}
    (tmp_path / audit.LOCK).write_text(json.dumps(lock))
    found = [tuple(package) for package in audit.pinned(tmp_path)]
    assert found == [
        ("PyPI", "a", "1.0"),
        ("PyPI", "c", "3"),
        ("PyPI", "d", "4"),
        ("npm", "@s/f", "6"),
    ]
    lines = [
        line
        for name in audit.REQUIREMENTS
        for line in (ROOT / name).read_text().splitlines()
        if line.strip() and not line.startswith((" ", "#", "-"))
    ]
    assert sum(package.ecosystem == "PyPI" for package in audit.pinned(ROOT)) == len(lines)
