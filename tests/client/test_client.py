"""The client and the command line, against the local server and one that answers as told."""

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

import pytest
import requests

from chalicelib.api.explain import Reason
from chalicelib.api.openapi import openapi_document
from chalicelib.api.stats_query import STEPS
from chalicelib.attempts import Outcome
from chalicelib.clock import SystemClock
from chalicelib.statistics import Statistics, StatisticsRow, Step, encoded
from chalicelib.store.contract import Heartbeat
from chalicelib.store.memory import Tables
from chalicelib.task import VISIBLE, Task
from chalicelib.times import rfc3339
from client import answers
from client.scheduler_client import ApiError, NotFound, SchedulerClient, Unavailable, new_task
from local import tasks as command_line
from local.stats import WIDTH_MAX, sparkline
from tests.conftest import free_port
from tests.support.fakes import NOON_MS, FakeClock
from tests.support.local_server import served

LATER = "2040-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables()


@pytest.fixture(scope="module")
def url(tables: Tables) -> Iterator[str]:
    with served(tables) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def scheduler(url: str, tables: Tables) -> Iterator[SchedulerClient]:
    for rows in (tables.tasks, tables.hints, tables.open, tables.all, tables.heartbeats):
        rows.clear()
    with requests.Session() as session:
        session.trust_env = False
        yield SchedulerClient(url, session=session, sleep=lambda _: None)


# The client


def test_a_task_from_create_to_delete(scheduler: SchedulerClient) -> None:
    task = scheduler.create("Baz", datetime(2040, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert (task["state"], task["send_ts"]) == ("scheduled", "2040-01-01T00:00:00.000Z")
    assert scheduler.show(task["id"]) == task
    assert scheduler.attempts(task["id"]) == []
    assert scheduler.explain(task["id"])["reason"] == "NotYetDue"
    scheduler.delete(task["id"])
    for call in (scheduler.show, scheduler.delete, scheduler.attempts, scheduler.explain):
        with pytest.raises(NotFound) as error:
            call(task["id"])
        assert (error.value.code, error.value.type) == (404, "TaskNotFound")
        assert error.value.details == {"id": task["id"]}


def test_a_refusal_carries_what_the_service_said(scheduler: SchedulerClient) -> None:
    with pytest.raises(ApiError) as error:
        scheduler.create("Qux", LATER)
    assert (error.value.code, error.value.type) == (400, "InvalidRequest")
    assert error.value.details["field"] == "type"
    assert "expected: one of Bar, Baz, Foo" in str(error.value)
    with pytest.raises(ApiError) as error:
        scheduler.create("Foo", LATER, payload={"colour": "é"})
    assert error.value.details["field"] == "payload.colour"


def test_a_time_without_zone_is_refused(scheduler: SchedulerClient) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        scheduler.create("Foo", datetime(2040, 1, 1))  # noqa: DTZ001


def test_a_key_gives_the_same_task(scheduler: SchedulerClient, tables: Tables) -> None:
    first = scheduler.create("Foo", LATER, idempotency_key="k")
    assert scheduler.create("Foo", LATER, idempotency_key="k") == first
    assert scheduler.create("Foo", LATER)["id"] != first["id"]
    assert len(tables.tasks) == 2


def test_list_walks_all_pages(scheduler: SchedulerClient) -> None:
    made = scheduler.create_many(new_task("Baz", f"2040-01-01T00:00:{s:02}Z") for s in range(30))
    assert list(scheduler.list(page_size=7)) == made
    assert list(scheduler.list(page_size=7, newest_first=True)) == made[::-1]
    since = datetime(2040, 1, 1, 0, 0, 10, tzinfo=UTC)
    some = scheduler.list(states=["scheduled", "running"], since=since, until=LATER[:-3] + "20Z")
    assert list(some) == made[10:20]
    assert list(scheduler.list(types=["Foo"])) == []


def test_many_are_created_in_batches(scheduler: SchedulerClient, tables: Tables) -> None:
    wanted = [new_task("Baz", LATER, {} if n % 2 else None) for n in range(230)]
    wanted[120]["type"] = "Qux"
    made = scheduler.create_many(wanted, idempotency_key="k")
    assert len(made) == 230
    assert len(tables.tasks) == 229
    bad = made[120]
    assert isinstance(bad, ApiError)
    assert (bad.code, bad.details["field"]) == (400, "type")
    again = scheduler.create_many(wanted, idempotency_key="k")
    assert [*again[:120], *again[121:]] == [*made[:120], *made[121:]]


def fail(tables: Tables, task_id: str) -> None:
    task = tables.tasks[task_id]
    assert task.due_at_ms is not None
    held = task.claimed(now_ms=task.due_at_ms, claim="c", processor="p")
    tables.tasks[task_id] = held.failed("boom", now_ms=task.due_at_ms + 7)


def test_a_failed_task_is_run_again(scheduler: SchedulerClient, tables: Tables) -> None:
    task_id = scheduler.create("Baz", "2020-01-01T00:00:00Z")["id"]
    fail(tables, task_id)
    assert scheduler.retry(task_id, idempotency_key="k")["state"] == "scheduled"
    assert scheduler.retry(task_id, idempotency_key="k")["state"] == "scheduled"
    with pytest.raises(ApiError) as error:
        scheduler.retry(task_id)
    assert (error.value.code, error.value.type) == (409, "TaskNotFailed")
    assert error.value.details["state"] == "scheduled"
    with pytest.raises(NotFound):
        scheduler.retry("1")


class Told(ThreadingHTTPServer):
    """Answers as told, one after the other: a status with a body, or a connection closed."""

    def __init__(self, answers: list[tuple[int, object] | None]) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Telling)


class _Telling(BaseHTTPRequestHandler):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append((self.command, self.path, dict(self.headers), body))
        answer = server.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, content = answer
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        if status == 503:
            self.send_header("Retry-After", "3")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Quiet."""


Tell = Callable[..., tuple[SchedulerClient, Told, list[float]]]


@pytest.fixture
def tell() -> Iterator[Tell]:
    servers: list[Told] = []
    sessions: list[requests.Session] = []

    def start(*answers: tuple[int, object] | None) -> tuple[SchedulerClient, Told, list[float]]:
        server, session, waits = Told(list(answers)), requests.Session(), list[float]()
        session.trust_env = False
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        servers.append(server)
        sessions.append(session)
        url = f"http://127.0.0.1:{server.server_port}/api/"
        return SchedulerClient(url, session=session, sleep=waits.append), server, waits

    yield start
    for server, session in zip(servers, sessions, strict=True):
        session.close()
        server.shutdown()
        server.server_close()


def error_body(code: int, type: str, **details: object) -> tuple[int, object]:
    return code, {"Code": code, "Message": "No.", "Type": type, "Details": details}


def test_a_create_is_sent_again_with_the_same_key(tell: Tell) -> None:
    unavailable = error_body(503, "StoreUnavailable", id="i")
    scheduler, server, waits = tell(None, unavailable, (502, b"<html>"), (200, {"id": "i"}))
    assert scheduler.create("Foo", LATER)["id"] == "i"
    assert [(method, path) for method, path, _, _ in server.seen] == [("POST", "/api/task")] * 4
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}) == 1
    assert len({body for _, _, _, body in server.seen}) == 1
    assert waits[1] == 3.0, "as the service asked"
    assert 0.1 <= waits[0] <= 0.2 and 0.4 <= waits[2] <= 0.8


def test_two_creates_have_two_keys(tell: Tell) -> None:
    scheduler, server, _ = tell((201, {}), (201, {}))
    scheduler.create("Foo", LATER)
    scheduler.create("Foo", LATER)
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}) == 2


def test_after_all_tries_it_is_unavailable(tell: Tell) -> None:
    scheduler, server, waits = tell(*[error_body(503, "StoreUnavailable", id="i")] * 5)
    with pytest.raises(Unavailable) as error:
        scheduler.create("Foo", LATER)
    assert (error.value.code, error.value.type) == (503, "StoreUnavailable")
    assert error.value.details == {"id": "i"}
    assert (len(server.seen), len(waits)) == (5, 4)


def test_nobody_there_is_unavailable() -> None:
    waits: list[float] = []
    with requests.Session() as session:
        session.trust_env = False
        scheduler = SchedulerClient(
            f"http://127.0.0.1:{free_port()}", session=session, tries=3, sleep=waits.append
        )
        with pytest.raises(Unavailable) as error:
            scheduler.show("x")
    assert (error.value.code, error.value.type, len(waits)) == (None, "NoAnswer", 2)


def test_a_refusal_is_not_sent_again(tell: Tell) -> None:
    scheduler, server, _ = tell(error_body(409, "TaskRunning", retry_after_s=7))
    with pytest.raises(ApiError) as error:
        scheduler.delete("x")
    assert (error.value.type, error.value.details) == ("TaskRunning", {"retry_after_s": 7})
    assert len(server.seen) == 1


def test_a_delete_whose_answer_was_lost_is_done(tell: Tell) -> None:
    scheduler, _, _ = tell(None, error_body(404, "TaskNotFound"))
    scheduler.delete("x")
    scheduler, _, _ = tell(error_body(404, "TaskNotFound"))
    with pytest.raises(NotFound):
        scheduler.delete("x")


def test_an_answer_in_another_shape_is_an_error_too(tell: Tell) -> None:
    scheduler, _, _ = tell((403, b"<html>"), (404, [1]))
    with pytest.raises(ApiError, match="403, without a reason") as error:
        scheduler.show("x")
    assert (error.value.code, error.value.type) == (403, "UnknownError")
    with pytest.raises(NotFound):
        scheduler.show("x")


def test_a_good_answer_that_cannot_be_read_is_asked_for_again(tell: Tell) -> None:
    scheduler, server, _ = tell((200, b"<html>"), (200, {"id": "i"}))
    assert scheduler.show("i")["id"] == "i"
    assert len(server.seen) == 2


def test_a_batch_of_which_a_part_was_lost_is_sent_again(tell: Tell) -> None:
    lost = {"status": 503, "error": error_body(503, "StoreUnavailable", id="b")[1]}
    first = {"results": [{"status": 201, "task": {"id": "a"}}, lost]}
    second = {"results": [{"status": 200, "task": {"id": i}} for i in "ab"]}
    scheduler, server, _ = tell((200, first), (200, second))
    made = scheduler.create_many([new_task("Foo", LATER)] * 2)
    assert [task["id"] for task in made if not isinstance(task, ApiError)] == ["a", "b"]
    assert server.seen[0][3] == server.seen[1][3]
    scheduler, server, _ = tell(*[(200, first)] * 5)
    made = scheduler.create_many([new_task("Foo", LATER)] * 2)
    assert isinstance(made[1], Unavailable)
    assert made[1].details == {"id": "b"}


def test_its_types_are_those_of_the_document() -> None:
    schemas = openapi_document()["components"]["schemas"]
    for name in ("Task", "Attempt", "Explanation", "Percentiles", "LiveProcessor", "Stats"):
        assert list(getattr(answers, name).__annotations__) == list(schemas[name]["properties"])
    processor = schemas["Explanation"]["properties"]["processors"]["items"]
    assert list(answers.Processor.__annotations__) == processor["required"]
    figures = list(schemas["FiguresOfStep"]["properties"])
    assert list(answers.Figures.__annotations__) == figures
    assert figures[1:] == list(schemas["Figures"]["properties"])
    backlog = schemas["Stats"]["properties"]["backlog"]
    assert list(answers.Backlog.__annotations__) == list(backlog["properties"])
    assert list(answers.NewTask.__annotations__) == list(schemas["NewTask"]["properties"])
    assert get_args(answers.Step) == tuple(STEPS)
    assert set(get_args(answers.State)) == {str(state) for state in VISIBLE}
    assert get_args(answers.Outcome) == tuple(map(str, Outcome))
    assert {str(reason) for reason in Reason} == set(
        schemas["Explanation"]["properties"]["reason"]["enum"]
    )


# The command line


@dataclass
class Terminal:
    """Runs commands; holds what the last one printed."""

    capture: pytest.CaptureFixture[str]
    clock: FakeClock
    out: str = ""
    err: str = ""
    sleep: Callable[[float], object] = lambda _: None

    def __call__(self, *arguments: str) -> int:
        code = command_line.main(arguments, clock=self.clock, sleep=self.sleep)
        self.out, self.err = self.capture.readouterr()
        return code

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def terminal(
    scheduler: SchedulerClient,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    monkeypatch.setenv("SCHEDULER_URL", url)
    return Terminal(capsys, FakeClock(NOON_MS))


def test_create_prints_a_table_or_json(terminal: Terminal, scheduler: SchedulerClient) -> None:
    assert terminal("create", "Foo", LATER) == 0
    heading, row = terminal.out.splitlines()
    assert heading.split() == ["ID", "TYPE", "STATE", "SEND_TS", "ATTEMPT", "LATENESS_MS", "RESULT"]
    assert row.split()[1:] == ["Foo", "scheduled", "2040-01-01T00:00:00.000Z", "0", "-", "-"]
    assert terminal("create", "Foo", LATER, "--json", "--key=k", "--payload={}") == 0
    [task] = terminal.lines
    assert task == scheduler.create("Foo", LATER, idempotency_key="k", payload={})
    assert terminal("show", task["id"], "--json") == 0
    assert terminal.lines == [task]


@pytest.mark.parametrize(
    ("text", "delay_ms"),
    [("+5s", 5_000), ("+1.5s", 1_500), ("+500ms", 500), ("+2m", 120_000), ("+1h", 3_600_000),
     ("+1d", 86_400_000), ("now", 0)],
)  # fmt: skip
def test_a_delay_counts_from_now(terminal: Terminal, text: str, delay_ms: int) -> None:
    assert terminal("create", "Foo", text, "--json") == 0
    assert terminal.lines[0]["send_ts"] == rfc3339(NOON_MS + delay_ms)


def test_a_create_with_a_key_and_a_delay_can_be_repeated(terminal: Terminal) -> None:
    create = ["create", "Foo", "+1h", "--json", "--key=k"]
    assert terminal(*create) == 0
    [first] = terminal.lines
    assert terminal.err == ""
    terminal.clock.tick(1.5)
    assert terminal(*create) == 0
    assert terminal.lines == [first]
    assert terminal.err == f"local: already there, created at {first['created_ts']}\n"
    for other in (["Baz", "+1h"], ["Foo", LATER], ["Foo", "+1h", "--payload={}"]):
        assert terminal("create", *other, "--key=k") == 1
        assert "another body" in terminal.err
        assert terminal.out == ""
    assert terminal("delete", first["id"]) == 0
    assert terminal(*create) == 1
    assert "was deleted" in terminal.err


def test_a_create_without_an_answer_tells_what_sends_it_again(
    terminal: Terminal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULER_URL", f"http://127.0.0.1:{free_port()}")
    assert terminal("create", "Foo", "+1h", "--payload={}") == 3
    error, told = terminal.err.splitlines()
    assert "does not answer" in error
    again = shlex.split(told.partition(" -m local task ")[2])
    assert again[:3] == ["create", "Foo", "2027-01-15T09:00:00Z"]
    monkeypatch.setenv("SCHEDULER_URL", url)
    terminal.clock.tick(60)
    assert terminal(*again, "--json") == 0
    [made] = terminal.lines
    assert terminal(*again, "--json") == 0
    assert terminal.lines == [made]


@pytest.mark.parametrize("text", ["tomorrow", "2040-01-01", "+5", "+5 s", "5s", "+99999999999d"])
def test_a_time_that_is_none_is_wrong_usage(terminal: Terminal, text: str) -> None:
    assert terminal("create", "Foo", text) == 2
    assert "send_ts" in terminal.err
    assert terminal.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["create"],
        ["create", "Foo"],
        ["create", "Foo", "now", "--payload", "[]"],
        ["create", "Foo", "now", "--payload", "{"],
        ["list", "--limit", "-1"],
        ["list", "--limit", "x"],
        ["delete"],
        ["retry"],
        ["frobnicate"],
    ],
)
def test_wrong_arguments_are_wrong_usage(terminal: Terminal, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        terminal(*arguments)
    assert exited.value.code == 2


def test_list_filters_and_limits(terminal: Terminal, scheduler: SchedulerClient) -> None:
    made = scheduler.create_many(new_task("Baz", f"2040-01-01T00:00:{s:02}Z") for s in range(60))
    assert terminal("list", "--json") == 0
    assert terminal.lines == made[:50]
    assert terminal("list", "--json", "--limit=0", "--newest", "--state=scheduled") == 0
    assert terminal.lines == made[::-1]
    assert terminal("list", "--json", "--since", "2040-01-01T00:00:58Z", "--until=+10000d") == 0
    assert terminal.lines == made[58:]
    assert terminal("list", "--type=Foo") == 0
    assert terminal.out.split() == [name.upper() for name in command_line.COLUMNS]
    assert terminal("list", "--state=done") == 2
    assert "state" in terminal.err


def test_delete_tells_what_it_could_not(terminal: Terminal, scheduler: SchedulerClient) -> None:
    ids = [scheduler.create("Foo", LATER)["id"] for _ in range(2)]
    assert terminal("delete", ids[0], "nothing", ids[1]) == 1
    assert "nothing" in terminal.err
    assert list(scheduler.list()) == []
    assert terminal("delete", ids[0]) == 1
    assert terminal("show", ids[0]) == 1


def test_retry_runs_failed_tasks_again(
    terminal: Terminal, scheduler: SchedulerClient, tables: Tables
) -> None:
    ids = [scheduler.create("Baz", "2020-01-01T00:00:00Z")["id"] for _ in range(3)]
    for task_id in ids[1:]:
        fail(tables, task_id)
    assert terminal("retry", *ids, "--json") == 1
    assert [task["id"] for task in terminal.lines] == ids[1:]
    assert {task["state"] for task in terminal.lines} == {"scheduled"}
    assert f"{ids[0]}: The task has not failed" in terminal.err
    fail(tables, ids[2])
    assert terminal("retry", ids[2]) == 0
    assert ids[2] in terminal.out


def test_explain_tells_the_reason(
    terminal: Terminal, scheduler: SchedulerClient, tables: Tables
) -> None:
    task_id = scheduler.create("Foo", "2020-01-01T00:00:00Z")["id"]
    now_ms = SystemClock().now_ms()
    tables.heartbeats["p"] = Heartbeat(processor="p", kind="worker", written_ms=now_ms)
    held = tables.tasks[task_id].claimed(now_ms=now_ms, claim="c", processor="p")
    tables.tasks[task_id] = held
    assert terminal("explain", task_id) == 0
    assert terminal.out.startswith("Running: It runs, attempt 1;")
    assert terminal.out.splitlines()[-1].split()[:2] == ["1", "running"]
    assert terminal("explain", task_id, "--json") == 0
    assert terminal.lines[0]["held_by"] == "p"


def put_statistics(tables: Tables, start_ms: int, count: int) -> None:
    one = Statistics(started=count, completed=count)
    one.lateness.add([7])
    row = StatisticsRow(Step.MINUTE, start_ms, "p", 1, encoded({"Foo": one}))
    tables.statistics[row[:4]] = row


def test_stats_are_told(
    terminal: Terminal, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_statistics(tables, NOON_MS - 120_000, 3)
    put_statistics(tables, NOON_MS - 60_000, 9)
    tables.heartbeats["p"] = Heartbeat(
        processor="p", kind="worker", written_ms=SystemClock().now_ms(), places=8, taken=2, host="h"
    )
    assert terminal("stats", "--last", "15m") == 0
    lines = terminal.out.splitlines()
    assert lines[1].split()[:2] == ["started", "12"]
    assert lines[7].split()[:3] == ["lateness", "p50", "7"]
    assert lines[9] == "backlog     nothing is due"
    assert lines[-1].split() == ["p", "worker", "h", "-", "2", "8", "16"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert terminal("stats", "--last", "15m", "--type", "Foo") == 0
    assert terminal.out.splitlines()[1].endswith("▁▁▁▁▁▁▁▁▁▁▁▁▁▄█")
    assert terminal("stats", "--json") == 0
    assert terminal.lines[0]["total"]["started"] == 12
    tables.statistics.clear()


def test_a_sparkline_has_a_bar_for_some_values() -> None:
    assert sparkline([0, 1, None, 4, 2]) == "▁▃ █▅"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([*range(1_441)])) <= WIDTH_MAX
    assert sparkline([*range(1_440)], max)[-1] == "█"


@pytest.mark.parametrize(("ends", "code"), [("completed", 0), ("failed", 1), ("deleted", 1)])
def test_watch_follows_a_task_to_its_end(
    terminal: Terminal, scheduler: SchedulerClient, tables: Tables, ends: str, code: int
) -> None:
    task_id = scheduler.create("Baz", rfc3339(NOON_MS + 12_000))["id"]
    waits: list[float] = []

    def settled(held: Task) -> Task:
        if ends == "completed":
            return held.completed("Baz 1", now_ms=NOON_MS)
        return held.failed("boom", now_ms=NOON_MS)

    def sleep(wait_s: float) -> None:
        """Something happens each time that the watcher waits."""
        waits.append(wait_s)
        terminal.clock.tick(wait_s)
        task = tables.tasks[task_id]
        if len(waits) == 2:
            tables.tasks[task_id] = task.claimed(now_ms=NOON_MS + 10**12, claim="c", processor="p")
        if len(waits) == 4 and ends == "deleted":
            tables.tasks[task_id] = task.deleted(now_ms=NOON_MS + 10**13, token="t")
        elif len(waits) == 4:
            tables.tasks[task_id] = settled(task)

    terminal.sleep = sleep
    assert terminal("watch", task_id, "--json") == code
    states = [task["state"] for task in terminal.lines]
    assert states == ["scheduled", "running", *([ends] if ends != "deleted" else [])]
    assert waits[:2] == [6.0, 3.0], "seldom while its time is far"
    assert waits[3] >= command_line.LOOK_AGAIN_S


def test_a_service_that_is_not_there_is_told(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULER_URL", f"http://127.0.0.1:{free_port()}")
    assert terminal("list") == 3
    assert "does not answer" in terminal.err
