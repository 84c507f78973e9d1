"""`python -m bench.api_process PART [NUMBER …]`: the API in a process of its own.

PART is one of the functions create, count, now, lists and cold. It calls `app(event, context)` as
Lambda does, and prints what it measured as one line of JSON.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from urllib.parse import parse_qs

BLOCK = 50
SPREAD_MS = 300_000
LISTS_MAX = 200
LISTS_S = 3.0
LISTERS = 4


class Context:
    """What Lambda gives beside the event, as far as Chalice looks at it."""

    aws_request_id = "bench"


def event(send_ts: str) -> dict[str, Any]:
    """What API Gateway sends for POST /task."""
    return {
        "resource": "/task",
        "path": "/task",
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json"},
        "multiValueHeaders": {"Content-Type": ["application/json"]},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/task",
            "httpMethod": "POST",
            "path": "/task",
            "identity": {"sourceIp": "127.0.0.1"},
        },
        "body": json.dumps({"type": "Baz", "send_ts": send_ts}),
        "isBase64Encoded": False,
    }


def shown(at_ms: int) -> str:
    whole, ms = divmod(at_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{ms:03d}Z"


def post(app: Any, at_ms: int) -> None:
    answer = app(event(shown(at_ms)), Context())
    if answer["statusCode"] != 201:
        raise SystemExit(f"the API answered {answer}")


def cold() -> None:
    soon_ms = round(time.time() * 1000) + 3_600_000
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    import app

    imported_s = time.perf_counter()
    post(app.app, soon_ms)
    ended_s = time.perf_counter()
    show({
        "import_ms": (imported_s - started_s) * 1000,
        "request_ms": (ended_s - imported_s) * 1000,
        "cpu_ms": (time.process_time() - started_cpu_s) * 1000,
    })  # fmt: skip


def count(creates: int, spread_ms: int) -> None:
    """Create one task, then wait for a line, then create all, due within `spread_ms`."""
    import app

    now_ms = round(time.time() * 1000)
    post(app.app, now_ms + spread_ms)
    show("ready")
    sys.stdin.readline()
    for number in range(creates):
        post(app.app, now_ms + number * spread_ms // creates)
    show("done")
    sys.stdin.readline()


def now(creates: int, rate: int, soon_ms: int) -> None:
    """Wait for a line, then create so many a second, at odd moments, each due within `soon_ms`."""
    import app

    rng = Random()
    post(app.app, round(time.time() * 1000) + 60 * SPREAD_MS)
    show("ready")
    sys.stdin.readline()
    next_s = time.time()
    for _ in range(creates):
        next_s += rng.uniform(0, 2) / rate
        time.sleep(max(0.0, next_s - time.time()))
        post(app.app, round(time.time() * 1000) + rng.randint(0, soon_ms))
    show("done")
    sys.stdin.readline()


def create(creates: int) -> None:
    """CPU milliseconds a create, and a bare create, block after block in turn."""
    import app

    now_ms = round(time.time() * 1000) + SPREAD_MS
    for _ in range(BLOCK):
        post(app.app, now_ms)
        bare(app, now_ms)
    found = []
    for _ in range(max(1, creates // BLOCK)):
        began_s = time.process_time()
        for _ in range(BLOCK):
            post(app.app, now_ms)
        between_s = time.process_time()
        bare_s = sum(bare(app, now_ms) for _ in range(BLOCK))
        found.append(((between_s - began_s) / BLOCK * 1000, bare_s / BLOCK * 1000))
    show({"cpu_ms": found})


def lists(*queries: str) -> None:
    """By query, each behind a `?`: requests to the store, milliseconds, and how many a second."""
    import app

    found: dict[str, Any] = {}
    for query in queries:
        get(app.app, query)
        requests = get(app.app, query)
        started_s, cpu_s, took = time.perf_counter(), time.process_time(), list[float]()
        while len(took) < LISTS_MAX and time.perf_counter() < started_s + LISTS_S:
            began_s = time.perf_counter()
            get(app.app, query)
            took.append(time.perf_counter() - began_s)
        found[query.removeprefix("?")] = {
            "requests": requests,
            "p50_ms": sorted(took)[len(took) // 2] * 1000,
            "cpu_ms": (time.process_time() - cpu_s) / len(took) * 1000,
            "a_second": at_once(app.app, query),
        }
    show(found)


def at_once(app: Any, query: str) -> float:
    """Lists a second that some threads get together."""
    ends_s = time.perf_counter() + LISTS_S

    def ask(_: int) -> int:
        done = 0
        while time.perf_counter() < ends_s:
            get(app, query)
            done += 1
        return done

    with ThreadPoolExecutor(LISTERS) as pool:
        return sum(pool.map(ask, range(LISTERS))) / LISTS_S


def get(app: Any, query: str) -> int:
    """A list; returns how many requests to the store it took."""
    asked = event("") | {"httpMethod": "GET", "body": None}
    asked["requestContext"] = asked["requestContext"] | {"httpMethod": "GET"}
    asked["multiValueQueryStringParameters"] = parse_qs(query.removeprefix("?")) or None
    answer = app(asked, Context())
    if answer["statusCode"] != 200:
        raise SystemExit(f"the API answered {answer}")
    headers = {name.lower(): value for name, value in answer["headers"].items()}
    return int(headers["server-timing"].split('"')[1].split()[0])


def bare(app: Any, at_ms: int) -> float:
    """CPU seconds that the client takes to send the two requests of a create, made beforehand."""
    import uuid

    from chalicelib.config import Settings
    from chalicelib.store.alternator import requests, rows
    from chalicelib.store.alternator.places import Indexes
    from chalicelib.task import Task

    client, settings = app.service().store._client, Settings.from_env()
    indexes = Indexes(settings.table_prefix, settings.shards)
    task = Task.new(
        id=str(uuid.uuid4()),
        type="Baz",
        send_ts_ms=at_ms,
        now_ms=at_ms,
        token=str(uuid.uuid4()),
    )
    (put_rows,) = rows.batches(indexes.rows(indexes.placed(task, 0)))
    put = requests.create(f"{settings.table_prefix}tasks", task)
    began_s = time.process_time()
    client.decide(put_rows)
    client.decide(put, key=task.id)
    return time.process_time() - began_s


def show(found: object) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    what, *numbers = sys.argv[1:]
    if what == "cold":
        cold()
    elif what == "count":
        count(*map(int, numbers))
    elif what == "lists":
        lists(*numbers)
    elif what == "now":
        now(*map(int, numbers))
    else:
        create(int(numbers[0]))


if __name__ == "__main__":
    main()
