"""The schema that a handler's keyword parameters are, and the text that a payload is kept as."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from chalicelib.processing import isolation
from chalicelib.processing.handling import called
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


async def positional(run: Run, colour: str) -> str:
    return colour


async def anything(run: Run, **colours: str) -> str:
    return ""


async def bare(run: Run, *, colour) -> str:  # type: ignore[no-untyped-def]
    return ""


async def a_set(run: Run, *, colours: set[str]) -> str:
    return ""


async def by_number(run: Run, *, colours: dict[int, str]) -> str:
    return ""


@pytest.mark.parametrize("handler", [positional, anything, bare, a_set, by_number])
def test_handler_whose_parameters_are_no_schema_is_not_registered(
    handler: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError):
        handles("Odd")(handler)
    assert "Odd" not in HANDLERS


@pytest.mark.parametrize(
    ("annotation", "fitting", "unfit"),
    [
        (str, ["", "a"], [1, None, [], True]),
        (int, [0, -1, 10**40], [1.0, True, "1", None]),
        (float, [0, 1.5, -1e300], [True, "1", None]),
        (bool, [True, False], [0, 1, "true", None]),
        (None, [None], [0, False, "", {}]),
        (list, [[], [1, "a"]], [{}, "a", None]),
        (dict, [{}, {"a": [1]}], [[], "a", None]),
        (list[int], [[], [1, 2]], [[1, "a"], [True], {}]),
        (dict[str, bool], [{}, {"a": True}], [{"a": 1}, []]),
        (int | None, [1, None], [1.5, "a"]),
        (list[str | int], [["a", 1]], [[None]]),
        (Any, [1, None, {}], []),
    ],
)
def test_values_fit_their_annotation(
    annotation: Any, fitting: list[object], unfit: list[object]
) -> None:
    schema = payload._schema_of(annotation)
    assert payload.expected(schema)
    assert all(payload.fits(value, schema) for value in fitting)
    assert not any(payload.fits(value, schema) for value in unfit)


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


async def _await(line: Any) -> object:
    return await line
