"""What kinds of values handlers can declare, what they receive, and what clients are told."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import given, settings
from msgspec import Meta, Struct

from chalicelib.errors import InvalidRequest
from chalicelib.task_types import Run, payload
from chalicelib.times import TIME_EXPECTED
from tests.support.payloads import ANY, FITTING, Colour, Instant, Item, paint


class Circle(Struct, tag="circle"):
    radius: float


class Square(Struct, tag="square"):
    side: float


class Pair(NamedTuple):
    left: int
    right: str


@dataclass
class Place:
    city: str


class Options(TypedDict, total=False):
    quick: bool


class Odd(Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2 == 0:
            raise ValueError("an odd number")


ID = UUID("0acb19f8-cfda-4317-8e21-88fb011d98f6")
Percent = Annotated[int, Meta(ge=0, le=100)]
Code = Annotated[str, Meta(pattern="^[A-Z]+$", max_length=3)]


def taking(annotation: Any) -> Callable[..., Any]:
    """A handler with one parameter, x."""

    async def handler(run: Run, *, x: object) -> str:
        return ""

    handler.__annotations__["x"] = annotation
    return handler


def received(annotation: Any, value: object) -> object:
    """What the handler gets for x. Raises InvalidRequest."""
    handler = taking(annotation)
    text = payload.checked({"x": value}, "Paint", handler)
    assert json.loads(text) == {"x": value}, "it is kept as it came"
    return payload.arguments(text, "Paint", handler)["x"]


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        (str, "", ""),
        (int, -(10**40), -(10**40)),
        (float, 1.5, 1.5),
        (float, 1, 1.0),
        (bool, False, False),
        (None, None, None),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": [1]}, {"a": [1]}),
        (list[int], [], []),
        (dict[str, bool], {"a": True}, {"a": True}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (int | None, None, None),
        (list[str | int], ["a", 1], ["a", 1]),
        (Any, {"a": None}, {"a": None}),
        (Instant, "2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        (date, "2030-01-31", date(2030, 1, 31)),
        (timedelta, "PT90S", timedelta(seconds=90)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, f"{ID}", ID),
        (bytes, "eA==", b"x"),
        (set[str], ["a", "b"], {"a", "b"}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Pair, [1, "a"], Pair(1, "a")),
        (Colour, "red", Colour.RED),
        (Literal["a", 1], 1, 1),
        (Percent, 100, 100),
        (Code, "ABC", "ABC"),
        (list[Item], [{"name": "a"}], [Item(name="a")]),
        (Item | None, {"name": "a", "count": 2}, Item(name="a", count=2)),
        (Circle | Square, {"type": "square", "side": 2}, Square(side=2.0)),
        (Place, {"city": "Riga"}, Place(city="Riga")),
        (Options, {"quick": True}, {"quick": True}),
        (Odd, {"number": 3}, Odd(number=3)),
    ],
)  # fmt: skip
def test_handler_receives_what_it_declares(annotation: Any, value: Any, converted: Any) -> None:
    got = received(annotation, value)
    assert (got, type(got)) == (converted, type(converted))
    schema = payload.schema(taking(annotation))
    jsonschema_rs.Draft202012Validator(dict(schema)).validate({"x": value})
    assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize(
    ("annotation", "value", "field", "got", "expected"),
    [
        (str, 1, "", "1", "a string"),
        (int, 1.0, "", "1.0", "an integer"),
        (int, True, "", "true", "an integer"),
        (int, "1", "", '"1"', "an integer"),
        (float, True, "", "true", "a number"),
        (float, "1", "", '"1"', "a number"),
        (float, 10**400, "", "1" + "0" * 98 + "…", "a number"),
        (bool, 0, "", "0", "true or false"),
        (bool, "true", "", '"true"', "true or false"),
        (None, False, "", "false", "null"),
        (list, {}, "", "an object", "an array"),
        (dict, [], "", "an array", "an object"),
        (list[int], [1, True], "[1]", "true", "an integer"),
        (list[int], {}, "", "an object", "an array of which each is an integer"),
        (dict[str, bool], {"a": 1}, "[...]", "an integer", "true or false"),
        (dict[int, str], {"a": "b"}, "", None, "an integer"),
        (dict[date, str], {"a": "b"}, "", None, "Invalid RFC3339 encoded date"),
        (int | None, 1.5, "", "1.5", "an integer or null"),
        (list[str | int], [None], "[0]", "null", "a string or an integer"),
        (datetime, 5, "", "5", TIME_EXPECTED),
        (datetime, "noon", "", '"noon"', TIME_EXPECTED),
        (Instant, "2030-01-31T12:00:00", "", '"2030-01-31T12:00:00"', TIME_EXPECTED),
        (date, "2030-02-30", "", '"2030-02-30"', "a date, such as 2030-01-31"),
        (timedelta, "90", "", '"90"', "an ISO 8601 duration, such as PT90S"),
        (timedelta, "P1Y", "", '"P1Y"', "an ISO 8601 duration, such as PT90S"),
        (timedelta, "P9999999999D", "", '"P9999999999D"', "an ISO 8601 duration, such as PT90S"),
        (Decimal, "x", "", '"x"', "a decimal number"),
        (UUID, "x", "", '"x"', "a UUID"),
        (bytes, "x", "", '"x"', "a string in Base64"),
        (tuple[int, str], [1], "", "an array", "an array, at least 2 items, at most 2 items"),
        (tuple[int, str], [1, 2], "[1]", "2", "a string"),
        (Pair, ["a", "b"], "[0]", '"a"', "an integer"),
        (Colour, "green", "", '"green"', 'one of "blue", "red"'),
        (Colour, 1, "", "1", 'one of "blue", "red"'),
        (Literal["a", "b"], "c", "", '"c"', 'one of "a", "b"'),
        (Literal[1, None], True, "", "true", "one of null, 1"),
        (Percent, 101, "", "101", "an integer, at least 0, at most 100"),
        (Code, "abc", "", '"abc"', "a string, at most 3 characters, matching ^[A-Z]+$"),
        (list[Item], [{"name": "a"}, {"name": 1}], "[1].name", "1", "a string"),
        (list[Item], [{"count": 1}], "[0].name", None, "a string"),
        (Item, {"name": "a", "n": 1}, ".n", None, "payload.x.name, payload.x.count"),
        (Item | None, 1, "", "1", "an object or null"),
        (dict[str, list[Item]], {"a": [{}]}, "[...][0].name", None, "a string"),
        (Circle | Square, {"type": "disc"}, ".type", '"disc"', '"circle" or "square"'),
        (Circle | Square, {"type": "circle"}, ".radius", None, "a number"),
        (Place, {}, ".city", None, "a string"),
        (Odd, {"number": 2}, "", "an object", "an odd number"),
        (Any, float("nan"), None, None, "JSON that every reader can read"),
    ],
)  # fmt: skip
def test_client_is_told_what_does_not_fit(
    annotation: Any, value: object, field: str | None, got: str | None, expected: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        received(annotation, value)
    details = {"field": "payload" if field is None else f"payload.x{field}", "got": got}
    details["expected"] = expected
    assert refused.value.details == {k: v for k, v in details.items() if v is not None}
    assert str(refused.value).endswith(".")


def test_schema_tells_nested_kinds_in_place() -> None:
    assert payload.schema(taking(list[Item] | None))["properties"]["x"] == {
        "anyOf": [
            {
                "type": "array",
                "items": {
                    "title": "Item",
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "count": {"type": "integer", "default": 1},
                    },
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            {"type": "null"},
        ]
    }
    assert payload.schema(taking(Percent))["properties"]["x"]["maximum"] == 100
    branches = payload.schema(taking(Circle | Square))["properties"]["x"]
    assert [*branches] == ["anyOf"]


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_what_is_accepted_is_received_converted(value: Any) -> None:
    try:
        text = payload.checked(value, "Paint", paint)
    except InvalidRequest as error:
        assert error.details["field"].startswith("payload")
        return
    taken = payload.arguments(text, "Paint", paint)
    assert json.loads(text) == value
    assert taken.keys() == value.keys()
    assert taken["when"] == datetime.fromisoformat(value["when"])
    assert taken["colour"] is Colour(value["colour"])
    if "size" in value:
        assert type(taken["size"]) is float and taken["size"] == value["size"]
    for item, came in zip(taken.get("items") or (), value.get("items") or (), strict=True):
        assert (item.name, item.count) == (came["name"], came.get("count", 1))
    assert taken.get("rest") == value.get("rest")


@settings(max_examples=200, deadline=None)
@given(FITTING)
def test_what_fits_is_accepted(value: dict[str, Any]) -> None:
    try:
        payload.checked(value, "Paint", paint)
    except InvalidRequest as error:
        assert error.details["field"] == "payload"
        assert not all(map(math.isfinite, _floats(value)))


def _floats(value: object) -> list[float]:
    if isinstance(value, float):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in _floats(part)]
