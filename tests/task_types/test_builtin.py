"""The three task types."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from chalicelib.task_types import HANDLERS, handles
from tests.support.fakes import run_of


def test_three_types_have_handlers() -> None:
    assert list(HANDLERS) == ["Foo", "Bar", "Baz"]


def test_second_handler_of_a_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'Foo' has a handler already"):
        handles("Foo")(HANDLERS["Foo"])


def test_baz_draws_every_number_and_no_other() -> None:
    run = run_of("Baz")

    async def draw() -> set[str]:
        return {await HANDLERS["Baz"](run) for _ in range(10_000)}

    assert asyncio.run(draw()) == {f"Baz {n}" for n in range(344)}


class Teapot(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(418)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def teapot() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Teapot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_bar_tells_the_status_of_its_site(teapot: str) -> None:
    async def ask() -> str:
        return await HANDLERS["Bar"](run_of("Bar", teapot))

    assert asyncio.run(ask()) == "418"
