"""The schema that a handler's keyword parameters are, and the text that a payload is kept as."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any

import pytest
from msgspec import Struct

from chalicelib.errors import InvalidRequest
from chalicelib.processing import isolation
from chalicelib.processing.handling import Failure, called, tried
from chalicelib.task_types import HANDLERS, Run, handles, payload
from tests.support.fakes import Ids, new_task


async def paint(run: Run, *, colour: str, size: int = 1, tags: list[str] | None = None) -> str:
    return f"{colour} {size} {tags}"


def test_keyword_parameters_are_the_schema() -> None:
    assert payload.schema(paint) == {
        "type": "object",
        "properties": {
            "colour": {"type": "string"},
            "size": {"type": "integer"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "additionalProperties": False,
        "required": ["colour"],
    }
    assert payload.schema(HANDLERS["Foo"])["properties"] == {}


class Open(Struct):
    name: str


async def positional(run: Run, colour: str) -> str:
    return colour


async def anything(run: Run, **colours: str) -> str:
    return ""


async def bare(run: Run, *, colour) -> str:  # type: ignore[no-untyped-def]
    return ""


async def an_object(run: Run, *, colours: object) -> str:
    return ""


async def two_texts(run: Run, *, when: str | date) -> str:
    return ""


async def any_pair(run: Run, *, pair: Open | dict[str, int]) -> str:
    return ""


async def underlined(run: Run, *, __colour: str) -> str:
    return ""


class Node(Struct):
    inner: "list[Node]"


async def recursive(run: Run, *, tree: Node) -> str:
    return ""


@pytest.mark.parametrize(
    "handler",
    [positional, anything, bare, an_object, two_texts, any_pair, underlined, recursive],
)
def test_handler_whose_parameters_are_no_schema_is_not_registered(
    handler: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError):
        handles("Odd")(handler)
    assert "Odd" not in HANDLERS


def test_text_is_one_whatever_the_order() -> None:
    assert payload.text_of({"b": 1, "a": "é"}) == payload.text_of({"a": "é", "b": 1})
    assert payload.text_of({"b": 1.0, "a": [None]}) == '{"a":[null],"b":1.0}'


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("value", [nested(101), float("inf"), "\ud800", {"\udfff": 1}])
def test_what_has_no_text_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"nested|not JSON compliant|surrogates"):
        payload.text_of(value)
    payload.text_of(nested(100))


def test_handler_gets_its_payload() -> None:
    task = replace(new_task(Ids(), type="Paint"), payload='{"colour":"red","size":3}')
    run = Run(task=task, rng=Random(1))
    assert asyncio.run(_await(called(paint, run))) == "red 3 None"


def test_isolated_handler_gets_its_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, "Paint", paint)
    task = replace(new_task(Ids(), type="Paint"), payload='{"colour":"red"}')
    assert isolation._outcome(Run(task=task, rng=Random(1))) == (True, "red 1 None")


def test_what_is_left_out_is_left_to_the_handler() -> None:
    assert payload.arguments("{}", "Paint", optional) == {}
    assert payload.arguments('{"size":null}', "Paint", optional) == {"size": None}


async def optional(run: Run, *, size: int | None = 7) -> str:
    return f"{size}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"taste":1}', "Paint takes no payload.taste."),
        ("{}", "payload.colour is missing."),
        ('{"colour":1}', "payload.colour does not fit."),
    ],
)
def test_attempt_with_a_payload_of_another_version_fails(text: str, error: str) -> None:
    task = replace(new_task(Ids(), type="Paint"), payload=text)
    failure = asyncio.run(tried(lambda: called(paint, Run(task=task, rng=Random(1)))))
    assert failure == Failure(f"InvalidRequest: {error}", InvalidRequest)


def test_isolated_handler_gets_values_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, "Paint", until)
    task = replace(new_task(Ids(), type="Paint"), payload='{"day":"2030-01-31"}')
    assert isolation._outcome(Run(task=task, rng=Random(1))) == (True, "2031")


async def until(run: Run, *, day: date) -> str:
    return f"{day.year + 1}"


async def _await(line: Any) -> object:
    return await line
