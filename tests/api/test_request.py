"""Headers and ids, however they are written."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import app as entry
from chalicelib.api.request import BODY_BYTES_MAX
from tests.support.api_service import NOW, Service, expect_error, lambda_event
from tests.support.hostile_requests import HOSTILE, JSON, Hostile


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
    ],
)
def test_json_may_be_announced_in_these_ways(service: Service, content_type: str) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW}).encode()
    response = service.http.post("/task", headers={"content-type": content_type}, body=body)
    assert response.status_code == 201


def test_a_body_of_exactly_64_kib_is_read(service: Service) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW}).encode().rjust(BODY_BYTES_MAX)
    assert service.http.post("/task", headers=JSON, body=body).status_code == 201


def test_other_calls_take_any_content_type(service: Service) -> None:
    task = service.created()
    odd = {"Content-Type": "text/plain"}
    assert service.http.get("/task", headers=odd).status_code == 200
    assert service.http.get(f"/task/{task['id']}", headers=odd).status_code == 200
    assert service.http.delete(f"/task/{task['id']}", headers=odd).status_code == 204


HEADER_BODY = json.dumps({"type": "Foo", "send_ts": NOW})


def sent(**headers: list[str]) -> Any:
    """POST /task with several values for a header, as API Gateway tells it: the last one too."""
    given = {name.replace("_", "-"): values for name, values in headers.items()}
    last = {name: values[-1] for name, values in given.items()}
    event = lambda_event(headers=last, multiValueHeaders=given, body=HEADER_BODY)
    answer = entry.app(event, None)
    return answer["statusCode"], json.loads(answer["body"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Idempotency-Key", ["a", "b"]),
        ("Idempotency-Key", ["", "b"]),
        ("Content-Type", ["application/json", "text/plain"]),
        ("Content-Type", ["text/plain", "application/json"]),
    ],
)
def test_a_header_with_two_values_is_400(service: Service, name: str, values: list[str]) -> None:
    headers = {"Content_Type": ["application/json"]} | {name.replace("-", "_"): values}
    status, error = sent(**headers)
    assert (status, error["Type"]) == (400, "InvalidRequest")
    assert error["Details"] == {"field": name, "got": ", ".join(values), "expected": "one value"}
    assert service.tables.tasks == {}


def test_a_header_twice_with_one_value_is_that_value(service: Service) -> None:
    keys = ["k", " k", "k"]
    status, task = sent(content_type=["application/json"] * 2, idempotency_KEY=keys)
    assert (status, task["id"]) == (201, service.create(key="k", type="Foo").json_body["id"])


@pytest.mark.parametrize(
    "spelled",
    [
        lambda id: id.upper(),
        lambda id: id.replace("-", "%2D"),
        lambda id: id.replace("-", "%2d"),
        lambda id: "".join(f"%{ord(c):02X}" for c in id.upper()),
    ],
)
def test_an_id_is_found_however_it_is_spelled(
    service: Service, spelled: Callable[[str], str]
) -> None:
    id = service.created()["id"]
    path = f"/task/{spelled(id)}"
    assert service.http.get(path).json_body["id"] == id
    assert service.http.get(f"{path}/attempts").json_body == {"attempts": []}
    assert service.http.get(f"{path}/explain").json_body["id"] == id
    assert service.http.delete(path).status_code == 204
    assert expect_error(service.http.get(path), 404, "TaskNotFound") == {"id": id}


@pytest.mark.parametrize(("body", "is_base64"), [("\ud800", False), ("no base64", True)])
def test_a_body_that_lambda_cannot_decode_is_400(
    service: Service, body: str, is_base64: bool
) -> None:
    answer = entry.app(lambda_event(headers=JSON, body=body, isBase64Encoded=is_base64), None)
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"])["Details"]["field"] == "body"


def test_a_body_that_lambda_hands_over_as_text_is_read(service: Service) -> None:
    body = json.dumps({"type": "Foo", "send_ts": NOW})
    assert entry.app(lambda_event(headers=JSON, body=body), None)["statusCode"] == 201


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if h.client], ids=lambda h: h.name)
def test_hostile_requests(service: Service, hostile: Hostile) -> None:
    response = service.http.request(
        hostile.method, hostile.target, headers=hostile.headers, body=hostile.body
    )
    details = expect_error(response, hostile.status, hostile.type)
    if hostile.field is not None:
        assert details["field"] == hostile.field
    assert all(len(str(value)) <= 150 for value in details.values())
    assert len(response.body) < 1000
    assert service.tables.tasks == {}
