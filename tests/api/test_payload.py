"""The payload of a task: kept, refused, described."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from chalicelib.task_types import HANDLERS
from chalicelib.task_types.payload import arguments
from tests.support import payloads
from tests.support.api_service import Service, expect_error


@pytest.mark.parametrize(
    "payload",
    [
        {"colour": "red"},
        {"colour": "", "size": -3, "depth": 1, "tags": []},
        {"depth": 1.5, "tags": ["a", "b"], "size": 10**30, "colour": "\u00e9\U0001f3a8\u0000"},
        {"colour": "x" * 32_754},
    ],
)
def test_a_payload_is_kept_as_it_came(
    service: Service, paint: None, payload: dict[str, object]
) -> None:
    task = service.created(type="Paint", payload=payload)
    assert task["payload"] == payload
    assert service.http.get(f"/task/{task['id']}").json_body["payload"] == payload
    assert service.http.get("/task").json_body["tasks"] == [task]


@pytest.mark.parametrize(
    ("payload", "field", "got", "expected"),
    [
        (None, "payload.colour", None, "a string"),
        ({}, "payload.colour", None, "a string"),
        ({"colour": None}, "payload.colour", "null", "a string"),
        ({"colour": 17}, "payload.colour", "17", "a string"),
        ({"colour": ["red"]}, "payload.colour", "an array", "a string"),
        ({"colour": "red", "size": True}, "payload.size", "true", "an integer"),
        ({"colour": "red", "size": 1.5}, "payload.size", "1.5", "an integer"),
        ({"colour": "red", "size": "1"}, "payload.size", '"1"', "an integer"),
        ({"colour": "red", "depth": False}, "payload.depth", "false", "a number or null"),
        ({"colour": "red", "tags": "a"}, "payload.tags", '"a"',
         "an array of which each is a string"),
        ({"colour": "red", "tags": [1]}, "payload.tags[0]", "1", "a string"),
        ({"colour": "red", "taste": 1}, "payload.taste", None,
         "payload.colour, payload.size, payload.depth, payload.tags"),
    ],
)  # fmt: skip
def test_a_payload_that_its_handler_does_not_take_is_refused(
    service: Service, paint: None, payload: object, field: str, got: str | None, expected: str
) -> None:
    fields: dict[str, Any] = {} if payload is None else {"payload": payload}
    details = expect_error(service.create(type="Paint", **fields), 400, "InvalidRequest")
    assert details == {"field": field, **({"got": got} if got else {}), "expected": expected}
    assert service.tables.tasks == {}


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(payloads.ANY)
def test_only_what_the_handler_can_receive_is_stored(
    service: Service, monkeypatch: pytest.MonkeyPatch, payload: Any
) -> None:
    monkeypatch.setitem(HANDLERS, "Draw", payloads.paint)
    before = dict(service.tables.tasks)
    response = service.create(type="Draw", payload=payload)
    if response.status_code != 201:
        expect_error(response, 400, "InvalidRequest")
        assert service.tables.tasks == before
        return
    stored = service.tables.tasks[response.json_body["id"]].payload
    assert response.json_body["payload"] == payload
    assert arguments(stored or "", "Draw", payloads.paint).keys() == payload.keys()


def test_an_empty_payload_is_fine_for_a_type_that_takes_none(service: Service) -> None:
    assert service.created(payload={})["payload"] == {}


def test_a_payload_in_another_order_is_the_same_body(service: Service, paint: None) -> None:
    first = service.create(key="k", type="Paint", payload={"colour": "red", "size": 2})
    again = service.create(key="k", type="Paint", payload={"size": 2, "colour": "red"})
    assert (first.status_code, again.status_code) == (201, 200)
    other = service.create(key="k", type="Paint", payload={"size": 3, "colour": "red"})
    expect_error(other, 422, "IdempotencyKeyReused")


def test_the_document_tells_what_each_type_takes(service: Service, paint: None) -> None:
    document = service.http.get("/openapi.json").json_body
    plain, painted = document["components"]["schemas"]["NewTask"]["anyOf"]
    assert plain["properties"]["type"]["enum"] == ["Bar", "Baz", "Foo"]
    assert plain["properties"]["payload"]["properties"] == {}
    assert painted["properties"]["type"]["enum"] == ["Paint"]
    assert painted["required"] == ["type", "send_ts", "payload"]
    assert painted["properties"]["payload"]["required"] == ["colour"]
    size = painted["properties"]["payload"]["properties"]["size"]
    assert size == {"type": "integer"}
