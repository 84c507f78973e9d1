"""The local server, over real sockets."""

import contextlib
import errno
import gc
import http.client
import json
import logging
import resource
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from chalice import local

import app as entry
from chalicelib import log
from chalicelib.api import endpoints, failures
from chalicelib.api.responses import TYPE_BY_STATUS, json_response
from local import crowd, gateway
from tests.support.hostile_requests import GOOD, HOSTILE, JSON, Hostile
from tests.support.local_server import served

BODY = json.dumps({"type": "Foo", "send_ts": GOOD}).encode()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway, "BODY_IDLE_S", 0.3)
        patch.setattr(gateway, "DISCARD_S", 0.3)
        patch.setattr(gateway, "HEAD_S", 0.5)
        with served() as port:
            yield port


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.closes = response.will_close

    def error(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        error = json.loads(self.body)
        assert list(error) == ["Code", "Message", "Type", "Details"]
        assert error["Code"] == self.status
        return error


class Line:
    """One connection on which anything can be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        return Answer(response)

    def is_closed(self) -> bool:
        return self.socket.recv(1) == b""


def raw(port: int, data: bytes, method: str = "GET") -> Answer:
    with Line(port) as line:
        line.send(data)
        return line.answer(method)


def wire(hostile: Hostile) -> bytes:
    headers = {**hostile.headers, "Host": "test", "Content-Length": str(len(hostile.body))}
    lines = [f"{hostile.method} {hostile.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("iso-8859-1") + hostile.body


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name)
def test_hostile_requests(port: int, hostile: Hostile) -> None:
    with Line(port) as line:
        line.send(wire(hostile))
        answer = line.answer(hostile.method)
        assert answer.status == hostile.status
        if hostile.method == "HEAD":
            assert answer.body == b""
        else:
            error = answer.error()
            assert error["Type"] == hostile.type
            if hostile.field is not None:
                assert error["Details"]["field"] == hostile.field
        line.send(b"GET /health HTTP/1.1\r\n\r\n")  # The connection is still good.
        assert line.answer().body == b'{"status":"ok"}'


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /task HTTP/1.1\r\n" + headers + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Content-Type: application/json\r\nTransfer-Encoding: chunked", body)


STATUS = {type: int(status) for status, type in TYPE_BY_STATUS.items()}
GARBAGE = [
    ("no HTTP", b"hello\r\n\r\n", "InvalidRequest"),
    ("one word", b"GET\r\n", "InvalidRequest"),
    ("HTTP/0.9", b"GET /task\r\n", "InvalidRequest"),
    ("four words", b"GET /task x HTTP/1.1\r\n\r\n", "InvalidRequest"),
    ("two empty lines", b"\r\n\r\n", "InvalidRequest"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \n\n", "InvalidRequest"),
    ("zero bytes", b"\x00" * 100 + b"\n", "InvalidRequest"),
    ("no token for a method", b"GE(T /task HTTP/1.1\r\n\r\n", "InvalidRequest"),
    ("no version", b"GET /task HTTP/x\r\n\r\n", "InvalidRequest"),
    ("another protocol", b"GET /task SMTP/1.1\r\n\r\n", "InvalidRequest"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HttpVersionNotSupported"),
    ("a long line", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", "UriTooLong"),
    ("a long header", b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000, "HeadersTooLarge"),
    ("many headers", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", "HeadersTooLarge"),
    ("a header without colon", b"GET /task HTTP/1.1\r\nHost\r\n\r\n", "InvalidRequest"),
    ("a length in words", post(b"Content-Length: ten"), "InvalidRequest"),
    ("a negative length", post(b"Content-Length: -1"), "InvalidRequest"),
    ("a signed length", post(b"Content-Length: +5"), "InvalidRequest"),
    ("an empty length", post(b"Content-Length:"), "InvalidRequest"),
    ("two lengths", post(b"Content-Length: 1\r\nContent-Length: 2", b"ab"), "InvalidRequest"),
    ("a length of a petabyte", post(b"Content-Length: 1" + b"0" * 15), "PayloadTooLarge"),
    ("a length beyond all", post(b"Content-Length: " + b"9" * 400), "InvalidRequest"),
    ("a body that stays away", post(b"Content-Length: 5", b"ab"), "RequestTimeout"),
    ("half a large body", post(b"Content-Length: 200000", b"a" * 150_000), "PayloadTooLarge"),
    (
        "length and chunks",
        post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        "InvalidRequest",
    ),
    ("an unknown coding", post(b"Transfer-Encoding: gzip, chunked"), "NotImplemented"),
    ("a chunk size in words", chunked(b"ten\r\n"), "InvalidRequest"),
    ("a chunk size beyond all", chunked(b"f" * 99 + b"\r\n"), "InvalidRequest"),
    ("a chunk of a petabyte", chunked(b"fffffffffff\r\n"), "PayloadTooLarge"),
    ("a chunk longer than told", chunked(b"2\r\nabc\r\n"), "InvalidRequest"),
    ("a chunk that stays away", chunked(b"5\r\nab"), "RequestTimeout"),
    ("an unknown expectation", post(b"Expect: miracles"), "ExpectationFailed"),
]


@pytest.mark.parametrize(("name", "data", "type"), GARBAGE, ids=[name for name, *_ in GARBAGE])
def test_what_is_no_request_is_answered_and_the_connection_closed(
    port: int, name: str, data: bytes, type: str
) -> None:
    with Line(port) as line:
        line.send(data)
        answer = line.answer()
        assert (answer.status, answer.error()["Type"]) == (STATUS[type], type)
        assert answer.headers["Connection"] == "close"
        assert line.is_closed()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Idempotency-Key", ["a", "b"]),
        ("Idempotency-Key", ["b", "a", "a"]),
        ("Content-Type", ["application/json", "text/plain"]),
        ("Content-Type", ["text/plain", "application/json"]),
    ],
)
def test_a_header_with_two_values_is_400(port: int, name: str, values: list[str]) -> None:
    lines = [f"{name.upper()}: {value}" for value in values]
    if name != "Content-Type":
        lines.append("Content-Type: application/json")
    head = "\r\n".join([*lines, f"Content-Length: {len(BODY)}"])
    details = raw(port, post(head.encode(), BODY)).error()["Details"]
    assert details == {"field": name, "got": ", ".join(values), "expected": "one value"}


def test_a_header_twice_with_one_value_is_taken(port: int) -> None:
    twice = "Content-Type: application/json\r\nIdempotency-Key: twice\r\n" * 2
    head = f"{twice}Content-Length: {len(BODY)}".encode()
    assert [raw(port, post(head, BODY)).status for _ in range(2)] == [201, 200]


def test_two_expectations_of_which_one_is_not_known_are_417(port: int) -> None:
    both = post(b"Expect: 100-continue\r\nExpect: miracles")
    assert raw(port, both).error()["Type"] == "ExpectationFailed"


def test_a_body_cut_short_is_400(port: int) -> None:
    with Line(port) as line:
        line.send(post(b"Content-Length: 5", b"ab"))
        line.socket.shutdown(socket.SHUT_WR)
        assert line.answer().error()["Type"] == "InvalidRequest"


def test_garbage_with_a_long_tail_is_answered_and_not_reset(port: int) -> None:
    answer = raw(port, b"hello\r\n" + b"x" * 3_000_000)
    assert answer.status == 400


@pytest.mark.parametrize("size", [65_537, 1_000_000, 12_000_000])
def test_an_over_long_body_is_read_off_and_the_connection_stays(port: int, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/task", body=b"x" * size, headers=JSON)
    assert Answer(connection.getresponse()).error()["Type"] == "PayloadTooLarge"
    connection.request("POST", "/task", body=BODY, headers=JSON)
    assert connection.getresponse().status == 201
    connection.close()


def chunks(*parts: bytes, extension: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in [*parts, b""])


@pytest.mark.parametrize(
    "body",
    [
        chunks(BODY),
        chunks(BODY[:10], BODY[10:]),
        chunks(*(bytes([byte]) for byte in BODY), extension=b";a=b"),
        chunks(BODY)[:-2] + b"Trailer: x\r\nAnother: y\r\n\r\n",
    ],
    ids=["one", "two", "one for each byte", "trailers"],
)
def test_a_chunked_body_is_read(port: int, body: bytes) -> None:
    with Line(port) as line:
        for _ in range(2):
            line.send(chunked(body))
            assert line.answer().status == 201


def test_an_over_long_chunked_body_is_413(port: int) -> None:
    with Line(port) as line:
        line.send(chunked(chunks(*[b"x" * 50_000] * 40)))
        assert line.answer().error()["Type"] == "PayloadTooLarge"
        line.send(chunked(chunks(BODY)))
        assert line.answer().status == 201


def test_a_client_that_asks_first_is_told_to_go_on(port: int) -> None:
    with Line(port) as line:
        head = (
            f"POST /task HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}"
        )
        line.send(f"{head}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert line.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(BODY)
        assert line.answer().status == 201


def test_a_client_that_asks_first_with_too_much_is_refused_at_once(port: int) -> None:
    head = b"Content-Length: 70000\r\nExpect: 100-continue"
    assert raw(port, post(head)).error()["Type"] == "PayloadTooLarge"


def test_one_empty_line_before_a_request_is_ignored(port: int) -> None:
    assert raw(port, b"\r\nGET /health HTTP/1.1\r\n\r\n").status == 200


def test_requests_in_a_row_are_answered_in_order(port: int) -> None:
    with Line(port) as line:
        line.send(
            b"GET /health HTTP/1.1\r\n\r\nGET /nope HTTP/1.1\r\n\r\nGET /task HTTP/1.1\r\n\r\n"
        )
        data = b""
        while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"}"):
            data += line.socket.recv(65_536)
        codes = [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]]
        assert codes == [b"200", b"404", b"200"]


def test_a_deleted_task_leaves_the_connection_clean(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(3):
        connection.request("POST", "/task", body=BODY, headers=JSON)
        response = connection.getresponse()
        task = json.loads(response.read())
        assert response.headers["Location"] == f"/task/{task['id']}"
        connection.request("DELETE", f"/task/{task['id']}")
        response = connection.getresponse()
        assert (response.status, response.read()) == (204, b"")
        assert "Content-Length" not in response.headers
    connection.close()


def test_http_1_0_and_close_are_honoured(port: int) -> None:
    for data in [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    ]:
        with Line(port) as line:
            line.send(data)
            answer = line.answer()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert line.is_closed()


def test_what_breaks_in_the_gateway_is_500(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway.Gateway, "_generate_lambda_context", lambda self: 1 / 0)
    answer = raw(port, b"GET /health HTTP/1.1\r\n\r\n")
    assert answer.error()["Type"] == "InternalError"
    assert answer.error()["Details"]["error_id"] in caplog.text


def reset(line: Line) -> None:
    """Have the line's end tell the server that what it sends is not wanted."""
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_client_that_resets_the_connection_costs_nothing(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for data in [b"", b"GET", b"GET /task HTTP/1.1\r\n\r\n" * 50]:
        with Line(port) as line:
            line.send(data)
            reset(line)
    assert raw(port, b"GET /health HTTP/1.1\r\n\r\n").status == 200
    assert capfd.readouterr() == ("", "")


def test_a_burst_of_connections_is_taken(port: int) -> None:
    """32 at once, where a queue of five loses some to the kernel's retries of 1 s and more."""
    assert gateway.HttpServer.request_queue_size == 128
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: raw(port, b"GET /task HTTP/1.1\r\n\r\n").status, range(64)))
    assert found == [200] * 64


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with room for eight, and patience."""
    monkeypatch.setattr(gateway, "connections_max", lambda: 8)
    for name in ("HEAD_S", "BODY_IDLE_S"):
        monkeypatch.setattr(gateway, name, 60.0)
    with served() as port:
        yield port


@pytest.mark.parametrize("begun", [b"", b"GET /hea", post(b"Content-Length: 5", b"ab")])
def test_who_has_waited_longest_makes_way(narrow: int, begun: bytes) -> None:
    lines = []
    for _ in range(20):
        lines.append(Line(narrow))
        lines[-1].send(begun)
        assert raw(narrow, b"GET /health HTTP/1.1\r\n\r\n").status == 200
    if begun:
        answer = lines[0].answer()
        assert (answer.error()["Type"], answer.headers["Retry-After"]) == ("ServerBusy", "1")
    assert lines[0].is_closed()
    lines[-1].socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        lines[-1].is_closed()
    for line in lines:
        line.__exit__()


def test_a_request_that_is_answered_makes_no_way(
    narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, under_way = threading.Event(), threading.Semaphore(0)

    def slow_health() -> Any:
        under_way.release()
        go_on.wait(10)
        return json_response({"status": "ok"})

    monkeypatch.setattr(endpoints, "health", slow_health)
    lines = [Line(narrow) for _ in range(8)]
    for line in lines:
        line.send(b"GET /health HTTP/1.1\r\n\r\n")
        assert under_way.acquire(timeout=10)
    with Line(narrow) as late:
        answer = late.answer()
        assert (answer.status, answer.error()["Type"]) == (503, "ServerBusy")
        assert late.is_closed()
    go_on.set()
    assert [line.answer().status for line in lines] == [200] * 8
    for line in lines:
        line.__exit__()


@pytest.mark.parametrize("piece", [b"GET /health HTTP/1.1\r\n", b"A: b\r\n", b"a"])
def test_a_head_that_comes_by_and_by_does_not_come(port: int, piece: bytes) -> None:
    with Line(port) as line:
        line.socket.settimeout(0.05)
        line.send(b"GET /health HTTP/1.1\r\n" if piece != b"a" else b"G")
        first = b""
        while not first:
            with contextlib.suppress(TimeoutError):
                first = line.socket.recv(12)
            with contextlib.suppress(ConnectionError):
                line.send(piece[:1] if piece.startswith(b"GET") else piece)
        assert first == b"HTTP/1.1 408"


def test_a_body_that_comes_by_and_by_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BODY_S", 0.3)
    with served() as port, Line(port) as line:
        line.send(post(b"Content-Length: 10000"))
        line.socket.settimeout(0.05)
        first = b""
        while not first:
            line.send(b"a")
            with contextlib.suppress(TimeoutError):
                first = line.socket.recv(12)
        assert first == b"HTTP/1.1 408"


def test_without_descriptors_the_server_makes_room_and_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Exhausted:
        def accept(self) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

    rests: list[float] = []
    server = gateway.HttpServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    ours, theirs = socket.socketpair()
    with server.socket, ours, theirs:
        monkeypatch.setattr(server, "socket", Exhausted())
        server.sleep = rests.append
        server.crowd.enter(ours)
        with pytest.raises(OSError, match="Too many"):
            server.get_request()
        assert rests == [gateway.FULL_PAUSE_S]
        assert ours.recv(1) == b""
        assert server.crowd.was_dropped(ours)


@pytest.mark.parametrize(
    ("limits", "raised_to", "places"),
    [
        ((1024, 1024), None, 512),
        ((1024, 524_288), 2000, 1000),
        ((256, 1500), 1500, 750),
        ((4096, 4096), None, 1000),
        ((1024, resource.RLIM_INFINITY), 2000, 1000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 1000),
    ],
)
def test_half_of_the_descriptors_are_for_connections(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    raised_to: int | None,
    places: int,
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, to: raised.append(to))
    assert crowd.connections_max() == places
    assert raised == ([(raised_to, limits[1])] if raised_to else [])


def test_an_answer_that_nobody_took_leaves_nothing_to_the_collector(port: int) -> None:
    """Python 3.13 and newer tell of a file whose last words were lost when it was collected."""
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", told.append)
        for _ in range(20):
            with Line(port) as line:
                line.send(b"GET /task HTTP/1.1\r\n\r\n" * 200)
                reset(line)
        assert raw(port, b"GET /health HTTP/1.1\r\n\r\n").status == 200
        gc.collect()
    assert told == []


def test_a_file_is_closed_although_its_last_words_are_lost(port: int) -> None:
    ours, theirs = socket.socketpair()
    handler = gateway.RequestHandler.__new__(gateway.RequestHandler)
    handler._has_unread = False
    handler.connection = handler.request = ours
    handler.rfile, handler.wfile = ours.makefile("rb"), ours.makefile("wb")
    handler.wfile.write(b"an answer")
    theirs.close()
    handler.finish()
    assert handler.wfile.closed
    assert handler.rfile.closed
    ours.close()


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    """As it comes, it is two writes, and the second waits 40 ms for the peer's word."""
    assert gateway.RequestHandler.wbufsize != 0
    assert gateway.RequestHandler.disable_nagle_algorithm


def test_mending_logs_to_stderr_and_puts_our_server_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = []
    monkeypatch.setattr(local, "LocalDevServer", local.LocalDevServer)
    monkeypatch.setattr(log, "set_up_apart", lambda clock: done.append("log"))
    gateway.patch_chalice_local(entry.middleware)
    assert local.LocalDevServer is gateway.Server
    assert done == ["log"]
    assert logging.getLogger(failures.__name__).handlers == []
