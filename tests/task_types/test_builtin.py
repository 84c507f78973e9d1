"""The three task types."""

import asyncio

import pytest

from chalicelib.task_types import HANDLERS, handles
from tests.support.fakes import run_of
from tests.support.teapot import teapot_url


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


def test_bar_tells_the_status_of_its_site() -> None:
    async def ask(url: str) -> str:
        return await HANDLERS["Bar"](run_of("Bar", url))

    with teapot_url() as url:
        assert asyncio.run(ask(url)) == "418"
