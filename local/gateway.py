"""The local server of `chalice local`, mended: quick, hard to upset, and one shape of error.

As it comes, it waits 40 ms for each answer's acknowledgement, drops connections beyond five at
once, answers in HTML or not at all what it cannot read, imitates API Gateway's 403 for an
unknown path, and holds any number of connections for ever. Nothing of this is deployed.
"""

import contextlib
import errno
import io
import re
import socket
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from chalice import local
from chalice.app import Chalice, Request
from chalice.config import Config

from chalicelib import log
from chalicelib.api.failures import internal_error
from chalicelib.api.headers import REQUEST_ID_HEADER, common_headers, request_id_of
from chalicelib.api.middleware import Middleware
from chalicelib.api.request import body_bytes_max, too_large
from chalicelib.api.responses import HttpError
from chalicelib.clock import Clock, Sleep, SystemClock, pause
from chalicelib.errors import shortened
from local.body import LENGTH, PIECE_BYTES, READ_OFF_BYTES_MAX, Body
from local.crowd import Crowd, connections_max
from local.input import Dropped, Input
from local.refusals import server_busy, unknown_path

HEAD_LINE_BYTES_MAX = 65_536
IDLE_S = 60.0
"""So long a connection may wait for a request to begin."""
HEAD_S = 10.0
BODY_IDLE_S = 5.0
BODY_S = 60.0
ANSWER_IDLE_S = 10.0
DISCARD_S = 1.0
DISCARD_ALL_S = 10.0
FULL_PAUSE_S = 0.1
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def patch_chalice_local(middleware: Middleware) -> None:
    """Have `chalice local` use the classes below, and log to stderr instead of stdout."""
    Gateway.middleware = middleware
    local.LocalDevServer = Server  # type: ignore[misc, assignment]
    log.set_up_apart(SystemClock())


class HttpServer(local.ThreadedHTTPServer):
    """Takes a burst of new connections, and no more of them than it has room for."""

    request_queue_size = 128
    clock: Clock = SystemClock()
    sleep: Sleep = staticmethod(pause)

    def __init__(self, *arguments: Any) -> None:
        self.crowd = Crowd(connections_max())
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            taken: tuple[socket.socket, Any] = super().get_request()
            return taken
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:  # To try again at once would be to spin.
                self.crowd.make_room()
                self.sleep(FULL_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.crowd.enter(request):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(full_answer())
            request.recv(PIECE_BYTES)  # What is left unread would take our answer with it.
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        self.crowd.leave(request)
        super().shutdown_request(request)


class Server(local.LocalDevServer):
    """What `chalice local` starts."""

    def __init__(self, app_object: Chalice, config: Config, host: str, port: int) -> None:
        handler: Any = RequestHandler
        super().__init__(app_object, config, host, port, handler, HttpServer)


class Gateway(local.LocalGateway):
    """Any path and any method get the app's own kind of answer. There are no authorizers.

    middleware: the app's, which tells what is refused by its head alone.
    """

    middleware: Middleware

    def refuses(self, method: str, path: str, headers: Message) -> bool:
        """Whether a request is refused by its head alone: nobody need read its body."""
        try:
            request = Request(self._event(method, path, headers, b""))
        except ValueError:
            return False
        return self.middleware.refusal(request) is not None

    def answer(self, method: str, path: str, headers: Message, body: bytes) -> dict[str, Any]:
        """What the app answers, as API Gateway takes it."""
        try:
            event = self._event(method, path, headers, body)
        except ValueError:
            return unknown_path(path.partition("?")[0]).response().to_dict()
        return self._app_object(event, self._generate_lambda_context())

    def _event(self, method: str, path: str, headers: Message, body: bytes) -> dict[str, Any]:
        """Raises ValueError for a path without a view."""
        event = self._generate_lambda_event(method, path, dict(headers), body)
        event["multiValueHeaders"] = {name: headers.get_all(name) for name in headers}
        return event


class RequestHandler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    server: HttpServer

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True  # An answer longer than the buffer is two writes still.

    def __init__(
        self, request: Any, client_address: Any, server: Any, app_object: Chalice, config: Config
    ) -> None:
        self.gateway = Gateway(app_object, config)
        self._has_unread = False
        self._has_skipped_line = False
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._input = Input(self.connection, self.server.clock, self.server.crowd)
        self.rfile = self._coming = io.BufferedReader(self._input)

    def handle(self) -> None:
        # The client went away, or takes no answer: nobody to be told.
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def handle_one_request(self) -> None:
        """Every method is handled by the app, invented ones too."""
        self.close_connection = True
        self.headers = Message()
        if not self._has_begun():
            return
        self._input.expect(HEAD_S, HEAD_S)
        try:
            self.raw_requestline = self.rfile.readline(HEAD_LINE_BYTES_MAX + 1)
            is_whole = self._has_line() and self.parse_request()
        except TimeoutError:
            self._refuse_unread(HttpError(HTTPStatus.REQUEST_TIMEOUT, "The head did not come."))
        except Dropped:
            self._refuse_unread(server_busy())
        else:
            if is_whole:
                self._handle()
            self.wfile.flush()

    def finish(self) -> None:
        """Close. What is left unread is read off first, or the answer might be lost with it."""
        with contextlib.suppress(OSError, Dropped):
            self.wfile.flush()
            if self._has_unread:
                self._read_off()
        with contextlib.suppress(OSError):  # It holds what a client that is gone did not take.
            self.wfile.close()
        self.rfile.close()

    def _has_begun(self) -> bool:
        """Wait for a request to begin. False if none does."""
        self._input.expect(IDLE_S, IDLE_S)
        self.server.crowd.wait(self.connection)
        try:
            return bool(self._coming.peek(1))
        except (TimeoutError, Dropped):
            return False

    def _has_line(self) -> bool:
        if len(self.raw_requestline) <= HEAD_LINE_BYTES_MAX:
            return True
        self.command = self.requestline = self.request_version = ""
        self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        return False

    def _read_off(self) -> None:
        self.server.crowd.wait(self.connection)
        self.connection.shutdown(socket.SHUT_WR)
        self._input.expect(DISCARD_S, DISCARD_ALL_S)
        piece = bytearray(PIECE_BYTES)
        for _ in range(READ_OFF_BYTES_MAX // PIECE_BYTES):
            if not self._input.readinto(piece):
                return

    def parse_request(self) -> bool:
        self.command, self.request_version = "", self.default_request_version
        self.close_connection = True
        words = self.raw_requestline.split()
        if not words and not self._has_skipped_line:
            self._has_skipped_line = True  # RFC 9112, 2.2: one empty line is to be ignored.
            self.close_connection = False
            return False
        self._has_skipped_line = False
        if len(words) != 3 or not _METHOD.fullmatch(words[0]):
            self.send_error(HTTPStatus.BAD_REQUEST, "The request line cannot be read.")
            return False
        if not super().parse_request():
            return False
        if self.headers.defects:
            self.send_error(HTTPStatus.BAD_REQUEST, "A header line cannot be read.")
            return False
        expected = {value.strip().lower() for value in self.headers.get_all("Expect", [])}
        if expected - {"100-continue"}:
            self.send_error(HTTPStatus.EXPECTATION_FAILED)
            return False
        return True

    def version_string(self) -> str:
        return "scheduler"

    def handle_expect_100(self) -> bool:
        length = self.headers.get("Content-Length", "")
        bytes_max = body_bytes_max(self.path)
        if LENGTH.fullmatch(length) and int(length) > bytes_max:
            self._refuse(too_large(bytes_max))
            return False
        if self.gateway.refuses(self.command, self.path, self.headers):
            return True
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, as our error object."""
        status = HTTPStatus(code)
        self._refuse(HttpError(status, shortened(message or status.description)))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No line for each request. What goes wrong inside, the app logs."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nor for one that did not come to its end."""

    def _handle(self) -> None:
        try:
            body = self._wanted_body()
        except HttpError as error:
            self._send(error.response().to_dict())
            return
        try:
            response = self.gateway.answer(self.command, self.path, self.headers, body)
        except Exception as error:
            response = internal_error(error).response().to_dict()
        self._send(response)

    def _refuse(self, error: HttpError) -> None:
        """Answer a request that cannot be read to its end, and give the connection up."""
        self.close_connection = self._has_unread = True
        self._send(error.response().to_dict())

    def _refuse_unread(self, error: HttpError) -> None:
        """The same, while not even its first line may be known."""
        self.command, self.request_version = "", self.default_request_version
        self._refuse(error)

    def _send(self, response: Mapping[str, Any]) -> None:
        self.connection.settimeout(ANSWER_IDLE_S)
        status, body = response["statusCode"], response["body"].encode()
        self.send_response(status)
        headers = answer_headers(response, self.headers, closes=self.close_connection)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _wanted_body(self) -> bytes:
        """None of a request whose head is refused: then the connection is given up."""
        has_body = "Transfer-Encoding" in self.headers or self.headers["Content-Length"]
        if has_body and self.gateway.refuses(self.command, self.path, self.headers):
            self.close_connection = self._has_unread = True
            return b""
        return self._read_body()

    def _read_body(self) -> bytes:
        """The whole body. If HttpError is raised, the connection is closed unless it was read."""
        kept, size = [], 0
        bytes_max = body_bytes_max(self.path)
        keeps_open = not self.close_connection
        self.close_connection = self._has_unread = True
        self._input.expect(BODY_IDLE_S, BODY_S)
        try:
            for piece in Body(self.headers, self._coming, bytes_max).pieces():
                size += len(piece)
                if size <= bytes_max:
                    kept.append(piece)
                elif size > READ_OFF_BYTES_MAX:
                    raise too_large(bytes_max)
        except TimeoutError:
            if size > bytes_max:
                raise too_large(bytes_max) from None
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "The body did not come.") from None
        except Dropped:
            raise server_busy() from None
        self.server.crowd.serve(self.connection)
        self.close_connection, self._has_unread = not keeps_open, False
        if size > bytes_max:
            raise too_large(bytes_max)
        return b"".join(kept)


def answer_headers(
    response: Mapping[str, Any], asked: Message, *, closes: bool
) -> Mapping[str, str]:
    """Those of an answer, whoever made it. asked: the head of the request, as far as it came."""
    request_id = request_id_of(asked.get_all(REQUEST_ID_HEADER, []))
    headers: dict[str, str] = common_headers(request_id) | response["headers"]
    if response["statusCode"] not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        headers["Content-Length"] = str(len(response["body"].encode()))
    return headers | ({"Connection": "close"} if closes else {})


def full_answer() -> bytes:
    """To whom no place can be made."""
    response = server_busy().response().to_dict()
    body: bytes = response["body"].encode()
    headers = answer_headers(response, Message(), closes=True)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["HTTP/1.1 503 Service Unavailable", *lines, "", ""]).encode() + body
