"""What came of a handler: its line, or a failure in words."""

import asyncio

import pytest

from chalicelib.processing.handling import (
    ERROR_CHARS_MAX,
    LINE_BYTES_MAX,
    Failure,
    HandlerFailed,
    checked_line,
    failure_of,
    tried,
)
from tests.support.fakes import ODD_ERRORS


@pytest.mark.parametrize("line", ["", "Baz 1", "ä" * (LINE_BYTES_MAX // 2), "x" * LINE_BYTES_MAX])
def test_a_line_is_taken_as_it_is(line: str) -> None:
    assert checked_line(line) == line


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (None, TypeError),
        (b"Baz 1", TypeError),
        ("two\nlines", ValueError),
        ("a return\r", ValueError),
        ("ä" * (LINE_BYTES_MAX // 2 + 1), ValueError),
    ],
)
def test_what_cannot_be_printed_as_one_line_is_refused(
    line: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="a handler"):
        checked_line(line)


@pytest.mark.parametrize(("raised", "text"), ODD_ERRORS)
def test_whatever_a_handler_raises_becomes_words(raised: BaseException, text: str) -> None:
    async def odd() -> str:
        raise raised

    failure = asyncio.run(tried(odd))
    assert isinstance(failure, Failure)
    assert failure.text == text
    assert len(failure.text) <= ERROR_CHARS_MAX


def test_failure_of_another_process_is_told_as_it_is() -> None:
    assert failure_of(HandlerFailed("ValueError: no")) == Failure("ValueError: no", HandlerFailed)


def test_the_line_of_a_handler_comes_through() -> None:
    async def good() -> str:
        return "Baz 1"

    assert asyncio.run(tried(good)) == "Baz 1"
