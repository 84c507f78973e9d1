"""The headers of every answer: request ids, security, CORS."""

import json
import logging
import uuid
from typing import Any

import pytest
from chalice.app import Request

import app as entry
from chalicelib.api.endpoints import Api
from chalicelib.api.headers import SECURITY_HEADERS, request_id_of
from chalicelib.api.settings import ApiSettings
from chalicelib.clock import SystemClock
from chalicelib.log import Handler
from chalicelib.request_id import REQUEST_ID
from tests.api.test_failures import Failing
from tests.support.api_service import Service, lambda_event
from tests.support.keys import WRITE

SITE = "https://app.example.org"
ANSWERS = [
    ("GET", "/health", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/task", 200),
    ("GET", "/task/1", 404),
    ("GET", "/task?limit=0", 400),
    ("PUT", "/task", 405),
    ("POST", "/task", 415),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_them(service: Service, method: str, path: str, status: int) -> None:
    ids = set()
    for _ in range(2):
        response = service.http.request(method, path)
        assert response.status_code == status
        assert dict(SECURITY_HEADERS).items() <= response.headers.items()
        assert response.headers["Server-Timing"].startswith("store;")
        ids.add(str(uuid.UUID(response.headers["X-Request-Id"])))
        assert not [name for name in response.headers if name.startswith("Access-Control")]
    assert len(ids) == 2


def test_an_answer_without_a_body_and_an_unexpected_error_have_them(service: Service) -> None:
    task_id = service.created()["id"]
    gone = service.http.delete(f"/task/{task_id}", headers={"X-Request-Id": "a"})
    service.use(Failing(ZeroDivisionError()))
    broken = service.http.get("/task", headers={"X-Request-Id": "a"})
    assert (gone.status_code, broken.status_code) == (204, 500)
    for response in (gone, broken):
        assert response.headers["X-Request-Id"] == "a"
        assert dict(SECURITY_HEADERS).items() <= response.headers.items()


@pytest.mark.parametrize(
    "given", ["a", "7f3c2a52-6b1e-4d0e-9c3b-0a1b2c3d4e5f", "a.B_c-9", "x" * 128]
)
def test_an_id_that_can_be_used_is_kept(service: Service, given: str) -> None:
    response = service.http.get("/task/1", headers={"x-request-ID": given})
    assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize(
    "given", ["", " ", "x" * 129, "a b", "a,b", "é", "a/b", "<b>", 'a"', "${x}", WRITE]
)
def test_another_one_is_made(service: Service, given: str) -> None:
    response = service.http.get("/task/1", headers={"X-Request-Id": given})
    assert str(uuid.UUID(response.headers["X-Request-Id"]))


def test_two_ids_are_none() -> None:
    assert request_id_of(["a", "a"]) == "a"
    assert len(request_id_of(["a", "b"])) == 36


def test_the_task_tells_which_request_created_it(service: Service) -> None:
    body = {"tasks": [{"type": "Baz", "send_ts": "2030-01-01T00:00:00Z"}] * 2}
    response = service.http.post(
        "/tasks",
        headers={"Content-Type": "application/json", "X-Request-Id": "night-3"},
        body=json.dumps(body).encode(),
    )
    tasks = [result["task"] for result in response.json_body["results"]]
    assert [task["request_id"] for task in tasks] == ["night-3"] * 2
    assert {task.request_id for task in service.tables.tasks.values()} == {"night-3"}
    shown = service.http.get(f"/task/{tasks[0]['id']}", headers={"X-Request-Id": "later"})
    assert shown.json_body["request_id"] == "night-3"


def test_log_lines_of_a_request_have_its_id(service: Service) -> None:
    said: list[logging.LogRecord] = []
    handler = Handler(SystemClock())
    handler.format = lambda record: said.append(record) or ""  # type: ignore[method-assign, func-returns-value]
    logging.getLogger().addHandler(handler)
    try:
        service.use(Failing(ZeroDivisionError()))
        service.http.get("/task", headers={"X-Request-Id": "r-1"})
        logging.getLogger("x").warning("of no request")
    finally:
        logging.getLogger().removeHandler(handler)
    found = [(record.name, vars(record).get("request_id")) for record in said]
    assert found == [("chalicelib.api.failures", "r-1"), ("x", None)]


def test_what_a_request_starts_for_all_has_not_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Made(Api):
        def __init__(self, *_: Any) -> None:
            seen.append(REQUEST_ID.get())
            raise ZeroDivisionError

    entry._made.cache_clear()
    monkeypatch.setattr(entry, "Api", Made)
    event = lambda_event(headers={"X-Request-Id": "first"}, body="")
    assert entry.app(event, None)["statusCode"] == 500
    assert seen == [None]
    assert REQUEST_ID.get() is None


# CORS


@pytest.fixture
def cors(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose settings name a site when it starts."""
    service.settings = ApiSettings.from_env({"CORS_ORIGINS": f"https://other.example.org,{SITE}"})
    for path, views in entry.app.routes.items():
        monkeypatch.setitem(entry.app.routes, path, dict(views))
    entry.add_preflights()
    return service


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_a_page_of_a_named_site_may_read_the_answer(
    cors: Service, method: str, path: str, status: int
) -> None:
    response = cors.http.request(method, path, headers={"Origin": SITE})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == SITE
    assert response.headers["Vary"] == "Origin"
    shown = response.headers["Access-Control-Expose-Headers"]
    assert {"X-Request-Id", "Location", "Retry-After"} <= set(shown.split(", "))
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "origin", [None, "https://app.example.org.evil", "null", "*", "", f"{SITE}/"]
)
def test_a_page_of_another_site_may_not(cors: Service, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for method in ("GET", "OPTIONS"):
        response = cors.http.request(method, "/task", headers=headers)
        assert not [name for name in response.headers if name.startswith("Access-Control")]
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/task", {"GET", "POST"}),
        ("/task/1", {"GET", "DELETE"}),
        ("/task/1/retry", {"POST"}),
        ("/health", {"GET"}),
    ],
)
def test_a_preflight_tells_what_may_be_sent(cors: Service, path: str, methods: set[str]) -> None:
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
    response = cors.http.request("OPTIONS", path, headers=asked)
    assert (response.status_code, response.body) == (204, b"")
    told = response.headers
    assert told["Access-Control-Allow-Origin"] == SITE
    assert set(told["Access-Control-Allow-Methods"].split(", ")) == {*methods, "OPTIONS"}
    assert set(told["Access-Control-Allow-Headers"].split(", ")) == {
        "Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id",
    }  # fmt: skip
    assert told["Access-Control-Max-Age"] == "600"


def test_a_preflight_needs_no_key_and_on_lambda_neither(cors: Service) -> None:
    env = {"CORS_ORIGINS": SITE, "AWS_LAMBDA_FUNCTION_NAME": "api"}
    cors.settings = ApiSettings.from_env(env)
    event = lambda_event(headers={"origin": SITE}, body=None)
    event["requestContext"]["httpMethod"] = "OPTIONS"
    answer = entry.app(event, None)
    assert answer["statusCode"] == 204
    assert answer["headers"]["Access-Control-Allow-Origin"] == SITE
    event["requestContext"]["httpMethod"] = "GET"
    refused = entry.app(event, None)
    assert refused["statusCode"] == 403
    assert refused["headers"]["Access-Control-Allow-Origin"] == SITE


def test_the_shared_answer_keeps_no_request_s_headers(service: Service) -> None:
    first = service.http.get("/openapi.json", headers={"X-Request-Id": "a"})
    second = service.http.get("/openapi.json")
    assert first.headers["X-Request-Id"] == "a" != second.headers["X-Request-Id"]


def test_a_setting_that_cannot_be_used_opens_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unusable() -> ApiSettings:
        return ApiSettings.from_env({"API_KEYS": WRITE})

    monkeypatch.setattr(entry, "api_settings", unusable)
    response = service.create()
    assert (response.status_code, response.json_body["Type"]) == (500, "InternalError")
    assert service.tables.tasks == {}
    assert "API_KEYS: entry 1" in caplog.text
    assert WRITE not in caplog.text
    assert entry.middleware.refusal(Request(lambda_event(headers={}, body=""))) is not None
