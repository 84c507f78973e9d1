"""Who gets what: each call without a key, and with a key of each kind."""

import hashlib
import json
import logging
import re
from dataclasses import replace

import pytest
from chalice.app import Request
from chalice.test import HTTPResponse

import app as entry
from chalicelib.api.access import caller_of, check_access
from chalicelib.api.responses import HttpError
from chalicelib.api.settings import ApiSettings, Auth
from chalicelib.log import JsonFormatter
from local.settings import ROOT
from tests.support import keys
from tests.support.api_service import NOW, Service, expect_error, lambda_event
from tests.support.hostile_requests import JSON
from tests.support.keys import bearer, keyed

NOBODY = ""
CALLERS = {
    "no key": NOBODY,
    "read key": keys.READ,
    "write key": keys.WRITE,
    "wrong key": keys.WRONG,
    "revoked key": keys.REVOKED,
}
READS, WRITES, OPEN = (401, 0, 0, 401, 401), (401, 403, 0, 401, 401), (0, 0, 0, 0, 0)
WHO_GETS_WHAT = {
    "POST /task": (201, WRITES),
    "GET /task": (200, READS),
    "POST /tasks": (200, WRITES),
    "GET /task/{id}": (200, READS),
    "DELETE /task/{id}": (204, WRITES),
    "POST /task/{id}/retry": (409, WRITES),
    "GET /task/{id}/attempts": (200, READS),
    "GET /task/{id}/explain": (200, READS),
    "GET /stats": (200, READS),
    "GET /health": (200, OPEN),
    "GET /ready": (200, OPEN),
    "GET /openapi.json": (200, OPEN),
    "GET /": (200, OPEN),
    "GET /page.css": (200, OPEN),
    "GET /page.js": (200, OPEN),
}
"""What who is let in gets, and for each of CALLERS what else, 0 for that."""
BODIES = {
    "POST /task": {"type": "Baz", "send_ts": NOW},
    "POST /tasks": {"tasks": [{"type": "Baz", "send_ts": NOW}]},
}
ROUTED = {f"{method} {path}" for path, views in entry.app.routes.items() for method in views}


@pytest.fixture
def service(service: Service) -> Service:
    """It asks for keys, and holds one task."""
    service.settings = keyed()
    service.use(service.store)
    return service


def call(service: Service, name: str, key: str, task_id: str = "") -> HTTPResponse:
    method, path = name.split()
    headers = {**JSON, **(bearer(key) if key else {})}
    body = json.dumps(BODIES.get(name, {})).encode()
    return service.http.request(method, path.replace("{id}", task_id), headers=headers, body=body)


def test_the_table_has_every_call() -> None:
    assert set(WHO_GETS_WHAT) == ROUTED


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", sorted(ROUTED))
def test_who_gets_what(service: Service, name: str, caller: str) -> None:
    task_id = call(service, "POST /task", keys.WRITE).json_body["id"]
    before = dict(service.tables.tasks)
    let_in, refused = WHO_GETS_WHAT[name]
    status = refused[list(CALLERS).index(caller)] or let_in
    response = call(service, name, CALLERS[caller], task_id)
    assert response.status_code == status
    if status in (401, 403):
        details = expect_error(response, status, "Unauthorized" if status == 401 else "Forbidden")
        assert details["field"] == "Authorization"
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="scheduler"')
        assert service.tables.tasks == before


def test_the_page_on_security_has_the_same_table() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+ /\S*)` \| (.+) \|$", page, re.MULTILINE)
    table = {
        name: " | ".join(str(status or let_in) for status in refused)
        for name, (let_in, refused) in WHO_GETS_WHAT.items()
    }
    assert dict(shown) == table


def test_a_key_that_was_revoked_was_one(service: Service) -> None:
    service.settings = keyed(keys.BEFORE)
    assert call(service, "GET /task", keys.REVOKED).status_code == 200
    service.settings = keyed()
    assert call(service, "GET /task", keys.REVOKED).status_code == 401


def test_both_keys_of_a_name_work_while_one_takes_the_place_of_the_other(service: Service) -> None:
    for key in (keys.OLD, keys.WRITE):
        assert call(service, "POST /task", key).status_code == 201


@pytest.mark.parametrize(
    ("authorization", "error"),
    [
        (f"Bearer {keys.WRONG}", ', error="invalid_token"'),
        (f"bearer   {keys.WRONG}", ', error="invalid_token"'),
        ("Bearer x", ', error="invalid_token"'),
        (f"Bearer {keys.WRITE[:-1]}", ', error="invalid_token"'),
        (f"Bearer {keys.WRITE}=", ', error="invalid_token"'),
        (keys.WRITE, ""),
        (f"Basic {keys.WRITE}", ""),
        (f"Bearer {keys.WRITE} {keys.WRITE}", ""),
        (f"Bearer {keys.WRITE},", ""),
        ("Bearer", ""),
        ("Bearer \u00e9", ""),
        ("", ""),
    ],
)
def test_what_is_no_key_is_401_with_a_challenge(
    service: Service, authorization: str, error: str
) -> None:
    response = service.http.get("/task", headers={"Authorization": authorization})
    expect_error(response, 401, "Unauthorized")
    assert response.headers["WWW-Authenticate"] == f'Bearer realm="scheduler"{error}'
    assert keys.WRITE[10:-1] not in str(response.body)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(service: Service, scheme: str) -> None:
    headers = {"AUTHORIZATION": f"{scheme} {keys.READ}"}
    assert service.http.get("/task", headers=headers).status_code == 200


def test_a_scope_that_is_not_enough_is_told(service: Service) -> None:
    response = call(service, "POST /task", keys.READ)
    assert response.json_body["Details"]["expected"] == "a key with scope write"
    assert response.headers["WWW-Authenticate"].endswith(
        'error="insufficient_scope", scope="write"'
    )


def test_nothing_of_a_body_is_read_without_a_key(service: Service) -> None:
    response = service.http.post("/task", headers={"Content-Type": "text/plain"}, body=b"{" * 99)
    expect_error(response, 401, "Unauthorized")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/task", "/task/1", "/health"])
def test_a_method_that_is_not_there_needs_no_key(service: Service, method: str, path: str) -> None:
    """What is there is told to everybody by /openapi.json."""
    assert service.http.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/task", "/health", "/task/1"])
@pytest.mark.parametrize(
    "query", [f"a={keys.WRITE}", f"{keys.WRITE}=", f"a=1&a=x{keys.WRITE}", "access_token=x"]
)
def test_a_key_in_the_url_is_refused(service: Service, path: str, query: str) -> None:
    response = service.http.get(f"{path}?{query}", headers=bearer(keys.WRITE))
    assert expect_error(response, 400, "InvalidRequest")["field"] == "query"
    assert keys.WRITE not in str(response.body)


def test_two_keys_are_none() -> None:
    values = [f"Bearer {keys.WRITE}", f"Bearer {keys.READ}"]
    event = lambda_event(headers={}, body="", multiValueHeaders={"AuthoriZation": values})
    answer = entry.middleware.refusal(Request(event))
    assert answer is None, "no keys are set"
    with pytest.raises(Exception, match="given more than once") as error:
        check_access(Request(event), keyed())
    assert "schedkey_" not in str(vars(error.value)) + repr(error.value)
    event["multiValueHeaders"] = {"authorization": [values[0], values[0]]}
    check_access(request := Request(event), keyed())
    assert caller_of(request) == "orders"


# Where no keys are set


def test_without_keys_nobody_is_asked(service: Service) -> None:
    service.settings = ApiSettings()
    for key in CALLERS.values():
        assert call(service, "POST /task", key).status_code == 201


@pytest.mark.parametrize("name", sorted(ROUTED))
def test_on_lambda_without_keys_all_but_the_open_paths_is_refused(
    service: Service, name: str
) -> None:
    service.settings = ApiSettings.from_env({"AWS_LAMBDA_FUNCTION_NAME": "api"})
    response = call(service, name, keys.WRITE, "1")
    let_in, refused = WHO_GETS_WHAT[name]
    if refused == OPEN:
        assert response.status_code == let_in
        return
    expect_error(response, 403, "Forbidden")
    for word in ("API_KEYS", "python -m deploy key", "API_AUTH=iam", "API_AUTH=none"):
        assert word in response.json_body["Message"]


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        ("arn:aws:iam::1:user/ops/ann", "arn:aws:iam::1:user/ops/ann"),
        ("arn:aws:sts::1:assumed-role/orders/session", "arn:aws:sts::1:assumed-role/orders"),
    ],
)
def test_with_iam_api_gateway_tells_who_calls(arn: str, name: str) -> None:
    iam = ApiSettings(auth=Auth.IAM)
    event = lambda_event(headers={}, body="")
    for identity in (None, {}, {"sourceIp": "127.0.0.1", "userArn": None}):
        event["requestContext"]["identity"] = identity
        with pytest.raises(HttpError, match="API Gateway did not tell") as error:
            check_access(Request(event), iam)
        assert error.value.status == 403
    event["requestContext"]["identity"] = {"userArn": arn}
    check_access(request := Request(event), iam)
    assert caller_of(request) == name


def test_with_iam_api_gateway_is_told_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    views = {
        (method, path): view
        for path, methods in entry.app.routes.items()
        for method, view in methods.items()
    }
    for view in views.values():
        monkeypatch.setattr(view, "authorizer", view.authorizer)
    entry.add_iam()
    asks = {f"{method} {path}" for (method, path), view in views.items() if view.authorizer}
    assert asks == {name for name, (_, refused) in WHO_GETS_WHAT.items() if refused != OPEN}


# What two callers share, and what is known of them


def test_an_idempotency_key_is_the_name_s_own(service: Service) -> None:
    def created(key: str) -> HTTPResponse:
        body = json.dumps(BODIES["POST /task"]).encode()
        headers = {**JSON, **bearer(key), "Idempotency-Key": "order-17"}
        return service.http.post("/task", headers=headers, body=body)

    answers = [created(key) for key in (keys.OLD, keys.WRITE, keys.OTHER, keys.OTHER)]
    assert [answer.status_code for answer in answers] == [201, 200, 201, 200]
    ids = [answer.json_body["id"] for answer in answers]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_an_idempotency_key_of_a_batch_and_of_a_retry_too(service: Service) -> None:
    def call_(key: str, path: str, body: object) -> HTTPResponse:
        headers = {**JSON, **bearer(key), "Idempotency-Key": "night-3"}
        return service.http.post(path, headers=headers, body=json.dumps(body).encode())

    made = [call_(key, "/tasks", BODIES["POST /tasks"]) for key in (keys.WRITE, keys.OTHER)]
    first, second = (answer.json_body["results"][0]["task"]["id"] for answer in made)
    assert first != second
    service.claim(first)
    now_ms = service.clock.now_ms()
    service.change(first, lambda task: task.failed("boom", now_ms=now_ms))
    retries = [call_(key, f"/task/{first}/retry", {}) for key in (keys.WRITE, keys.OTHER, keys.OLD)]
    assert [answer.status_code for answer in retries] == [200, 409, 200]


def test_the_name_stands_in_the_log_of_each_write(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task_id = call(service, "POST /task", keys.WRITE).json_body["id"]
    call(service, "GET /task", keys.WRITE)
    call(service, "POST /tasks", keys.OTHER)
    call(service, "DELETE /task/{id}", keys.WRITE, task_id)
    call(service, "DELETE /task/{id}", keys.READ, task_id)
    lines = [
        (r.action, r.method, r.path, r.status, getattr(r, "key", None), getattr(r, "task_id", None))
        for r in map(vars_of, caplog.records)
    ]
    assert lines == [
        ("write", "POST", "/task", 201, "orders", task_id),
        ("write", "POST", "/tasks", 200, "billing", None),
        ("write", "DELETE", "/task/{id}", 204, "orders", task_id),
        ("refused", "DELETE", "/task/{id}", 403, None, None),
    ]


class Line:
    """A log record as its line has it."""

    action = method = path = ""
    status = 0


def vars_of(record: logging.LogRecord) -> Line:
    line = Line()
    vars(line).update(json.loads(JsonFormatter().format(record)))
    return line


def test_no_key_and_no_hash_is_shown_anywhere(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = [repr(service.settings), str(service.settings), repr(service.settings.keys)]
    said.append(repr(replace(service.settings, horizon_days=1)))
    for name in sorted(ROUTED):
        for key in CALLERS.values():
            answer = call(service, name, key, "1")
            said += [str(answer.body), str(answer.headers)]
    for headers in (
        {"Authorization": keys.WRITE},
        {**bearer(keys.READ), "X-Request-Id": keys.READ},
    ):
        answer = service.http.get("/task", headers=headers)
        said += [str(answer.body), str(answer.headers)]
    answer = service.http.get(f"/task?state={keys.WRITE}", headers=bearer(keys.WRITE))
    said += [str(answer.body), *map(JsonFormatter().format, caplog.records)]
    assert any("orders" in text for text in said)
    for key in (keys.READ, keys.WRITE, keys.WRONG, keys.REVOKED):
        digest = hashlib.sha256(key.encode())
        for secret in (key, digest.hexdigest(), repr(digest.digest())[2:-1]):
            assert not any(secret in text for text in said)
