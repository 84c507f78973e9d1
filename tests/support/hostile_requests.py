"""Requests that nobody should send, with the status and the Type each is answered with."""

import json
from dataclasses import dataclass, field
from typing import Any

UUID = "7f3c2a52-6b1e-4d0e-9c3b-0a1b2c3d4e5f"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """client: chalice.test.Client can send it too, not only a socket."""

    name: str
    method: str = "POST"
    target: str = "/task"
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    body: bytes = b""
    status: int = 400
    type: str = "InvalidRequest"
    field: str | None = None
    client: bool = True


def create(name: str, body: bytes | object, field: str, **expected: Any) -> Hostile:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Hostile(name=name, body=data, field=field, **expected)


def send_ts(name: str, value: object) -> Hostile:
    return create(f"send_ts: {name}", {"type": "Foo", "send_ts": value}, "send_ts")


def payload(name: str, value: object, field: str = "payload") -> Hostile:
    task = {"type": "Foo", "send_ts": GOOD, "payload": value}
    return create(f"payload: {name}", task, field)


def raw_payload(name: str, text: bytes, field: str = "payload") -> Hostile:
    body = b'{"type":"Foo","send_ts":"2030-01-01T00:00:00Z","payload":' + text + b"}"
    return create(f"payload: {name}", body, field)


def batch(name: str, body: bytes | object, field: str, **expected: Any) -> Hostile:
    return create(f"batch: {name}", body, field, target="/tasks", **expected)


def listing(name: str, query: str, field: str) -> Hostile:
    return Hostile(
        name=f"list: {name}", method="GET", target=f"/task?{query}", headers={}, field=field
    )


def method(verb: str, target: str, client: bool = True) -> Hostile:
    return Hostile(
        name=f"{verb} {target}",
        method=verb,
        target=target,
        headers={},
        status=405,
        type="MethodNotAllowed",
        client=client,
    )


def media(name: str, headers: dict[str, str]) -> Hostile:
    body = b'{"type":"Foo","send_ts":"2030-01-01T00:00:00Z"}'
    return Hostile(
        name=f"media type: {name}",
        headers=headers,
        body=body,
        status=415,
        type="UnsupportedMediaType",
        field="Content-Type",
    )


def absent(name: str, verb: str, target: str) -> Hostile:
    return Hostile(
        name=f"{verb} {name}",
        method=verb,
        target=target,
        headers={},
        status=404,
        type="TaskNotFound",
    )


def unknown_path(target: str, verb: str = "GET") -> Hostile:
    return Hostile(
        name=f"{verb} {target}",
        method=verb,
        target=target,
        headers={},
        status=404,
        type="NotFound",
        client=False,
    )


GOOD = "2030-01-01T00:00:00Z"

BODIES = [
    create("empty body", b"", "body"),
    create("blank body", b"  \n", "body"),
    create("no JSON", b"type=Foo&send_ts=now", "body"),
    create("half an object", b'{"type":"Foo"', "body"),
    create("two values", b"{} {}", "body"),
    create("trailing comma", b'{"type":"Foo",}', "body"),
    create("single quotes", b"{'type':'Foo'}", "body"),
    create("a comment", b"{/* */}", "body"),
    create("null", b"null", "body"),
    create("a number", b"17", "body"),
    create("a string", b'"Foo"', "body"),
    create("an array", b'[{"type":"Foo","send_ts":"2030-01-01T00:00:00Z"}]', "body"),
    create("NaN", b'{"type":"Foo","send_ts":NaN}', "body"),
    create("-Infinity", b"-Infinity", "body"),
    create("a number beyond all floats", b'{"type":1e999,"send_ts":"x"}', "type"),
    create("a number of 5000 digits", b'{"type":' + b"7" * 5000 + b"}", "body"),
    create("deep nesting", b"[" * 60_000, "body"),
    create("deep nesting of a field", b'{"type":' + b"[" * 900 + b"]" * 900 + b"}", "type"),
    create("undecodable bytes", b'{"type":"\xff\xfe"}', "body"),
    create("UTF-16", '{"type":"Foo"}'.encode("utf-16"), "body"),
    create("UTF-16 without a mark", '{"type":"Foo"}'.encode("utf-16-le"), "body"),
    create("a byte order mark", b'\xef\xbb\xbf{"type":"Foo"}', "body"),
    create("overlong UTF-8", b'{"type":"\xc0\xae"}', "body"),
    create("encoded surrogate", b'{"type":"\xed\xa0\x80"}', "body"),
    create("duplicate field", b'{"type":"Foo","type":"Bar","send_ts":"x"}', "type"),
    create("duplicate field, escaped", b'{"type":"Foo","\\u0074ype":"Foo"}', "type"),
    create("duplicate field deep down", b'{"type":{"a":1,"a":2}}', "a"),
    create("control character", b'{"type":"F\noo"}', "body"),
    create("only zeros", b"\x00" * 64, "body"),
    create("no field", {}, "type"),
    create("no type", {"send_ts": GOOD}, "type"),
    create("no send_ts", {"type": "Foo"}, "send_ts"),
    create("unknown field", {"type": "Foo", "send_ts": GOOD, "id": UUID}, "id"),
    create("field in capitals", {"Type": "Foo", "send_ts": GOOD}, "Type"),
    create("empty field name", {"": 1}, ""),
    create("surrogate in a name", b'{"\\ud800":1}', "\\ud800"),
    create("__class__", {"__class__": "Task"}, "__class__"),
    create("unknown type", {"type": "Qux", "send_ts": GOOD}, "type"),
    create("type in small letters", {"type": "foo", "send_ts": GOOD}, "type"),
    create("type with a space", {"type": "Foo ", "send_ts": GOOD}, "type"),
    create("empty type", {"type": "", "send_ts": GOOD}, "type"),
    create("type null", {"type": None, "send_ts": GOOD}, "type"),
    create("type a number", {"type": 1, "send_ts": GOOD}, "type"),
    create("type an array", {"type": ["Foo"], "send_ts": GOOD}, "type"),
    create("type an object", {"type": {"Foo": 1}, "send_ts": GOOD}, "type"),
    create("type a lone surrogate", b'{"type":"\\ud800","send_ts":"x"}', "type"),
    create("type of 60,000 characters", {"type": "x" * 60_000, "send_ts": GOOD}, "type"),
    create(
        "body of 64 KiB and a byte",
        b" " * 65_489 + b'{"type":"Foo","send_ts":"2030-01-01T00:00:00Z"} ',
        "body",
        status=413,
        type="PayloadTooLarge",
    ),
    create("body of a megabyte", b"x" * 1_000_000, "body", status=413, type="PayloadTooLarge"),
]

PAYLOADS = [
    payload("null", None),
    payload("a string", "{}"),
    payload("an array", []),
    payload("a number", 0),
    payload("false", False),
    payload("a field for a type that takes none", {"colour": "red"}, "payload.colour"),
    payload("run, which is no field of it", {"run": 1}, "payload.run"),
    payload("a field without a name", {"": 1}, "payload."),
    payload("a path", {"../x": 1}, "payload.../x"),
    payload("__class__", {"__class__": {}}, "payload.__class__"),
    payload("a name of 10,000 characters", {"x" * 10_000: 1}, "payload." + "x" * 91 + "…"),
    payload("over 32 KiB", {"a": "x" * 32_761}),
    raw_payload("over 32 KiB of two-byte characters", b'{"a":"' + "é".encode() * 16_381 + b'"}'),
    raw_payload("nested 101 deep", b'{"a":' * 101 + b"1" + b"}" * 101),
    raw_payload("nested 900 deep", b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    raw_payload("a number beyond all floats", b'{"a":1e999}'),
    raw_payload("NaN", b'{"a":NaN}', "body"),
    raw_payload("a number of 5000 digits", b'{"a":' + b"7" * 5000 + b"}", "body"),
    raw_payload("a lone surrogate", b'{"a":"\\ud800"}'),
    raw_payload("a lone surrogate in a name", b'{"\\udfff":1}'),
    raw_payload("a name given twice", b'{"a":1,"a":1}', "a"),
]

BATCHES = [
    batch("empty body", b"", "body"),
    batch("an array", [{"type": "Foo", "send_ts": GOOD}], "body"),
    batch("one task", {"type": "Foo", "send_ts": GOOD}, "type"),
    batch("no tasks", {"tasks": []}, "tasks"),
    batch("tasks missing", {}, "tasks"),
    batch("tasks null", {"tasks": None}, "tasks"),
    batch("tasks an object", {"tasks": {"0": {"type": "Foo", "send_ts": GOOD}}}, "tasks"),
    batch("tasks a string", {"tasks": "Foo"}, "tasks"),
    batch("101 tasks", {"tasks": [{"type": "Foo", "send_ts": GOOD}] * 101}, "tasks"),
    batch("a field too many", {"tasks": [{"type": "Foo", "send_ts": GOOD}], "dry": True}, "dry"),
    batch("a name given twice in one task",
          b'{"tasks":[{"type":"Foo","type":"Foo","send_ts":"2030-01-01T00:00:00Z"}]}', "type"),
    batch("Idempotency-Key: empty", {"tasks": [{"type": "Foo", "send_ts": GOOD}]},
          "Idempotency-Key", headers={**JSON, "Idempotency-Key": ""}),
    batch("text", {"tasks": []}, "Content-Type", headers={"Content-Type": "text/plain"},
          status=415, type="UnsupportedMediaType"),
    batch("over 4 MiB", b'{"tasks":[' + b" " * 4 * 1024 * 1024 + b"]}", "body",
          status=413, type="PayloadTooLarge"),
]  # fmt: skip

TIMES = [
    send_ts("null", None),
    send_ts("a number", 1893456000),
    send_ts("a boolean", True),
    send_ts("empty", ""),
    send_ts("naive", "2030-01-01T00:00:00"),
    send_ts("a date", "2030-01-01"),
    send_ts("a week date", "2030-W01-1T00:00:00Z"),
    send_ts("basic format", "20300101T000000Z"),
    send_ts("a space for T", "2030-01-01 00:00:00Z"),
    send_ts("space before", " 2030-01-01T00:00:00Z"),
    send_ts("line break after", "2030-01-01T00:00:00Z\n"),
    send_ts("no seconds", "2030-01-01T00:00Z"),
    send_ts("offset without colon", "2030-01-01T00:00:00+0200"),
    send_ts("offset of hours", "2030-01-01T00:00:00+02"),
    send_ts("offset of 24 hours", "2030-01-01T00:00:00+24:00"),
    send_ts("offset of 60 minutes", "2030-01-01T00:00:00+01:60"),
    send_ts("zone name", "2030-01-01T00:00:00 UTC"),
    send_ts("two offsets", "2030-01-01T00:00:00Z+00:00"),
    send_ts("a fraction without digits", "2030-01-01T00:00:00.Z"),
    send_ts("a comma", "2030-01-01T00:00:00,5Z"),
    send_ts("30 February", "2030-02-30T00:00:00Z"),
    send_ts("29 February 2030", "2030-02-29T00:00:00Z"),
    send_ts("month 13", "2030-13-01T00:00:00Z"),
    send_ts("day 0", "2030-01-00T00:00:00Z"),
    send_ts("24 o'clock", "2030-01-01T24:00:00Z"),
    send_ts("minute 60", "2030-01-01T00:60:00Z"),
    send_ts("leap second", "2016-12-31T23:59:60Z"),
    send_ts("second 61", "2030-01-01T00:00:61Z"),
    send_ts("year 0", "0000-01-01T00:00:00Z"),
    send_ts("year 10000", "10000-01-01T00:00:00Z"),
    send_ts("year 10000 in UTC", "9999-12-31T23:59:59-00:01"),
    send_ts("year 10000 by rounding", "9999-12-31T23:59:59.9991Z"),
    send_ts("year 0 in UTC", "0001-01-01T00:00:00+00:01"),
    send_ts("a negative year", "-001-01-01T00:00:00Z"),
    send_ts("Arabic digits", "٢٠٣٠-01-01T00:00:00Z"),
    send_ts("full-width digits", "\uff12\uff10\uff13\uff10-01-01T00:00:00Z"),
    send_ts("a lone surrogate", "\ud800"),
]

HEADERS = [
    media("none", {}),
    media("empty", {"Content-Type": ""}),
    media("text", {"Content-Type": "text/plain"}),
    media("form", {"Content-Type": "application/x-www-form-urlencoded"}),
    media("anything", {"Content-Type": "*/*"}),
    media("JSON's neighbour", {"Content-Type": "application/jsonp"}),
    media("JSON in the second place", {"Content-Type": "text/plain, application/json"}),
    media("JSON as a parameter", {"Content-Type": "text/plain; a=application/json"}),
    media("another charset", {"Content-Type": "application/json; charset=utf-16"}),
    media("no slash", {"Content-Type": "json"}),
    create("Idempotency-Key: empty", {"type": "Foo", "send_ts": GOOD}, "Idempotency-Key",
           headers={**JSON, "Idempotency-Key": ""}),
    create("Idempotency-Key: long", {"type": "Foo", "send_ts": GOOD}, "Idempotency-Key",
           headers={**JSON, "Idempotency-Key": "k" * 256}),
    create("Idempotency-Key: no ASCII", {"type": "Foo", "send_ts": GOOD}, "Idempotency-Key",
           headers={**JSON, "Idempotency-Key": "clé"}),
]  # fmt: skip

QUERIES = [
    listing("unknown parameter", "page=2", "page"),
    listing("parameter in capitals", "State=failed", "State"),
    listing("parameter without a name", "=1", ""),
    listing("empty state", "state=", "state"),
    listing("state without =", "state", "state"),
    listing("unknown state", "state=done", "state"),
    listing("state in capitals", "state=Failed", "state"),
    listing("the hidden state", "state=deleted", "state"),
    listing("states by comma", "state=failed,running", "state"),
    listing("one good state, one bad", "state=failed&state=bad", "state"),
    listing("unknown type", "type=Qux", "type"),
    listing("type in small letters", "type=foo", "type"),
    listing("empty type", "type=", "type"),
    listing("limit 0", "limit=0", "limit"),
    listing("limit 1001", "limit=1001", "limit"),
    listing("negative limit", "limit=-1", "limit"),
    listing("limit with a plus", "limit=%2B5", "limit"),
    listing("limit with a zero before", "limit=05", "limit"),
    listing("fractional limit", "limit=1.0", "limit"),
    listing("hexadecimal limit", "limit=0x10", "limit"),
    listing("limit in Arabic digits", "limit=%D9%A3", "limit"),
    listing("no number", "limit=all", "limit"),
    listing("empty limit", "limit=", "limit"),
    listing("huge limit", "limit=" + "9" * 5000, "limit"),
    listing("limit twice", "limit=5&limit=5", "limit"),
    listing("order sideways", "order=sideways", "order"),
    listing("order in capitals", "order=DESC", "order"),
    listing("order twice", "order=asc&order=desc", "order"),
    listing("naive since", "since=2030-01-01T00:00:00", "since"),
    listing("empty since", "since=", "since"),
    listing("since a date", "since=2030-01-01", "since"),
    listing("since with a bare plus", "since=2030-01-01T00:00:00+02:00", "since"),
    listing("leap second", "until=2016-12-31T23:59:60Z", "until"),
    listing("until twice", "until=2030-01-01T00:00:00Z&until=2030-01-01T00:00:00Z", "until"),
    listing("until before since", "since=2030-01-02T00:00:00Z&until=2030-01-01T00:00:00Z", "until"),
    listing("until before since at the epoch",
            "since=1970-01-01T00:00:00.001Z&until=1970-01-01T00:00:00Z", "until"),
    listing("empty cursor", "cursor=", "cursor"),
    listing("damaged cursor", "cursor=xyz", "cursor"),
    listing("cursor of another alphabet", "cursor=%2B%2F%2B%2F", "cursor"),
    listing("long cursor", "cursor=" + "A" * 20_000, "cursor"),
    listing("cursor twice", "cursor=a&cursor=a", "cursor"),
    listing("undecodable bytes", "state=%ff%fe", "state"),
    listing("zero byte", "type=Foo%00", "type"),
]  # fmt: skip

PATHS = [
    absent("an id of no task", "GET", f"/task/{UUID}"),
    absent("an id of no task", "DELETE", f"/task/{UUID}"),
    absent("an id in capitals", "GET", f"/task/{UUID.upper()}"),
    absent("an id in capitals", "DELETE", f"/task/{UUID.upper()}"),
    absent("an id without hyphens", "GET", f"/task/{UUID.replace('-', '')}"),
    absent("an id in braces", "GET", f"/task/%7B{UUID}%7D"),
    absent("an escaped id", "GET", "/task/" + UUID.replace("7", "%37", 1)),
    absent("no UUID", "GET", "/task/1"),
    absent("no UUID", "DELETE", "/task/1"),
    absent("two dots", "GET", "/task/.."),
    absent("a slash, escaped", "GET", "/task/a%2Fb"),
    absent("an empty id", "GET", "/task//"),
    absent("an empty id", "DELETE", "/task//"),
    absent("a zero byte", "GET", "/task/%00"),
    absent("an id of 5,000 characters", "GET", "/task/" + "a" * 5000),
    absent("the attempts of no task", "GET", f"/task/{UUID}/attempts"),
    absent("the attempts of no UUID", "GET", "/task/1/attempts"),
    absent("why no task has not run", "GET", f"/task/{UUID}/explain"),
    absent("why no UUID has not run", "GET", f"/task/{UUID.upper()}/explain"),
    absent("no task again", "POST", f"/task/{UUID}/retry"),
    absent("no UUID again", "POST", f"/task/{UUID.upper()}/retry"),
    method("GET", f"/task/{UUID}/retry"),
    method("DELETE", f"/task/{UUID}/retry"),
    method("GET", "/tasks"),
    method("DELETE", "/tasks"),
    method("TRACE", "/tasks"),
    method("POST", f"/task/{UUID}/attempts"),
    method("DELETE", f"/task/{UUID}/explain"),
    method("PUT", "/task"),
    method("PATCH", "/task"),
    method("DELETE", "/task"),
    method("HEAD", "/task"),
    method("OPTIONS", "/task", client=False),
    method("TRACE", "/task"),
    method("PROPFIND", "/task"),
    method("QUERY", "/task"),
    method("FROBNICATE", "/task"),
    method("get", "/task", client=False),
    method("POST", f"/task/{UUID}"),
    method("PUT", f"/task/{UUID}"),
    method("PATCH", f"/task/{UUID}"),
    method("POST", "/health"),
    method("DELETE", "/ready"),
    method("OPTIONS", "/openapi.json", client=False),
    method("POST", "/"),
    method("DELETE", "/page.js"),
    unknown_path("/nope"),
    unknown_path("/tasks/1"),
    unknown_path(f"/task/{UUID}/attempts/1"),
    unknown_path(f"/task/{UUID}/retry/1", "POST"),
    unknown_path("/Task"),
    unknown_path("/%74ask"),
    unknown_path("/task.json"),
    unknown_path(f"/task/{UUID}/nope"),
    unknown_path("/../etc/passwd"),
    unknown_path("/nope", "DELETE"),
    unknown_path("/nope", "FROBNICATE"),
    unknown_path("*", "OPTIONS"),
    unknown_path("http://[::1/task"),
    unknown_path("/" + "a/" * 2000),
]

HOSTILE = [*BODIES, *PAYLOADS, *BATCHES, *TIMES, *HEADERS, *QUERIES, *PATHS]
