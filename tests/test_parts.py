"""The small parts: clock, fleet, settings, logs, handlers, isolation, tick."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from typing import cast

import pytest

import app as entry
from chalicelib import log
from chalicelib.clock import SystemClock, pause
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, SchedulerError, TaskNotFound
from chalicelib.processing import fleet, isolation, tick
from chalicelib.processing.handling import HandlerFailed
from chalicelib.store import ownership
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.contract import Heartbeat
from chalicelib.task import Task, TaskState
from chalicelib.task_types import HANDLERS, Run, handles
from tests.support.cluster import service_env
from tests.support.fakes import NOON_MS, ODD_ERRORS, Ids, new_task


def run_of(type: str, bar_url: str = "http://127.0.0.1:1/") -> Run:
    return Run(task=new_task(Ids(), type=type), rng=Random(3), bar_url=bar_url)


# Clock


def test_system_clock_moves_on() -> None:
    clock = SystemClock()
    before_ms, before_s = clock.now_ms(), clock.monotonic_s()
    pause(0.002)
    assert clock.now_ms() > before_ms
    assert clock.monotonic_s() > before_s


# Fleet


def beat(processor: str, beat_ms: int = NOON_MS, interval_ms: int = 1_000) -> Heartbeat:
    return Heartbeat(processor=processor, kind="worker", beat_ms=beat_ms, interval_ms=interval_ms)


def test_processor_is_dead_when_its_beat_stands_still() -> None:
    seen = fleet.Fleet("me")
    for second in range(6):
        rows = [beat("still"), beat("alive", NOON_MS + second)]
        seen.see(rows, now_s=float(second), now_ms=NOON_MS)
    assert seen.live(3.9) == ("alive", "me", "still")
    assert seen.live(4.0) == ("alive", "me")
    assert seen.live(1.5, fleet.FRESH_LATE_S) == ("alive", "me", "still")
    assert seen.live(1.7, fleet.FRESH_LATE_S) == ("alive", "me")
    assert seen.long_dead(60.5) == ["still"]


def test_processor_that_beats_seldom_is_waited_for() -> None:
    seen = fleet.Fleet("me")
    seen.see([beat("idle", interval_ms=4_000)], now_s=0.0, now_ms=NOON_MS)
    assert seen.live(4.5, fleet.FRESH_LATE_S) == ("idle", "me")
    assert seen.live(4.7, fleet.FRESH_LATE_S) == ("me",)
    assert seen.live(6.9) == ("idle", "me")
    assert seen.live(7.0) == ("me",)
    assert seen.slow(4.0) == {"idle"}
    seen.see([beat("idle", interval_ms=1_000)], now_s=5.0, now_ms=NOON_MS)
    assert seen.slow(4.0) == set(), "it is idle no more"
    assert seen.live(6.7, fleet.FRESH_LATE_S) == ("me",)


def test_age_of_a_row_counts_when_it_is_first_seen() -> None:
    seen = fleet.Fleet("me")
    rows = [
        beat("old", NOON_MS - 4_001),
        beat("older", NOON_MS - 3_000),
        beat("ahead", NOON_MS + 9),
    ]
    changed = seen.see(rows, now_s=0.0, now_ms=NOON_MS)
    assert seen.live(0.0) == ("ahead", "me", "older")
    assert [row.processor for row in changed] == ["older", "ahead"]
    assert seen.live(1.1) == ("ahead", "me")
    seen.see([beat("old", NOON_MS - 3_001)], now_s=1.1, now_ms=NOON_MS + 1_100)
    assert seen.live(1.1) == ("me", "old"), "it beats: its clock is wrong"


def test_row_that_is_gone_is_dead_at_once() -> None:
    seen = fleet.Fleet("me")
    seen.see([beat("left")], now_s=0.0, now_ms=NOON_MS)
    seen.see([], now_s=1.0, now_ms=NOON_MS)
    assert seen.live(1.0) == ("me",)


def test_few_shards_move_when_a_processor_comes() -> None:
    before = {shard: ownership.owner(shard, ("a", "b", "c")) for shard in range(256)}
    after = {shard: ownership.owner(shard, ("a", "b", "c", "d")) for shard in range(256)}
    moved = [shard for shard in before if before[shard] != after[shard]]
    assert {after[shard] for shard in moved} == {"d"}
    assert 32 < len(moved) < 96


# Settings


def test_settings_have_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_settings_are_read() -> None:
    env = {
        "ALTERNATOR_ENDPOINTS": "https://a:9001, https://b:9001",
        "SHARDS": "32",
        "BATCH_SIZE": "7",
        "POLL_INTERVAL_S": "0.25",
        "BAR_URL": "http://localhost:1/",
        "TABLE_PREFIX": "x_",
    }
    settings = Settings.from_env(env)
    assert settings.endpoints == ("https://a:9001", "https://b:9001")
    assert (settings.shards, settings.batch_size, settings.poll_interval_s) == (32, 7, 0.25)
    assert (settings.bar_url, settings.table_prefix) == ("http://localhost:1/", "x_")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALTERNATOR_ENDPOINTS", ","),
        ("ALTERNATOR_ENDPOINTS", "localhost:8000"),
        ("ALTERNATOR_ENDPOINTS", "http://a:1,http://b:2"),
        ("ALTERNATOR_ENDPOINTS", "http://a:99999"),
        ("SHARDS", "0"),
        ("SHARDS", "-1"),
        ("SHARDS", "many"),
        ("BATCH_SIZE", "1001"),
        ("LOOKAHEAD_S", "0.2"),
        ("POLL_INTERVAL_S", "often"),
        ("BAR_URL", "ftp://x"),
        ("TABLE_PREFIX", "no spaces"),
    ],
)
def test_unusable_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        Settings.from_env({name: value})
    assert name in str(error.value)
    assert value in str(error.value) or value == ","


HASH = "$6$pfzYX0.hU$9HA/a.$x"
"""What ScyllaDB takes as a secret looks like this: shells and env files would expand it."""


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("secret", [HASH, " a 'b' \"c\" # ", "ä"])
def test_secret_is_read_from_its_file(tmp_path: Path, secret: str, end: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes((secret + end).encode())
    env = {"ALTERNATOR_SECRET_FILE": str(file), "ALTERNATOR_SECRET": ""}
    assert Settings.from_env(env).secret == secret
    assert (
        Settings.from_env({"ALTERNATOR_SECRET": HASH, "ALTERNATOR_SECRET_FILE": ""}).secret == HASH
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"USER=scheduler\nSECRET=xyz\n", "the secret in one line"),
        (b"xyz\n\n", "the secret in one line"),
        (b"xyz\xff", "cannot be read"),
    ],
)
def test_secret_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        InvalidSetting, match=f"^ALTERNATOR_SECRET_FILE='{file}': .*{said}"
    ) as error:
        Settings.from_env({"ALTERNATOR_SECRET_FILE": str(file)})
    assert "xyz" not in str(error.value)


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("xyz")
    env = {"ALTERNATOR_SECRET": "xyz", "ALTERNATOR_SECRET_FILE": str(file)}
    with pytest.raises(
        InvalidSetting, match="ALTERNATOR_SECRET and ALTERNATOR_SECRET_FILE"
    ) as error:
        Settings.from_env(env)
    assert "xyz" not in str(error.value)


# Errors and logs


def test_error_speaks_for_itself() -> None:
    assert str(TaskNotFound(id="x")) == "There is no such task."
    assert TaskNotFound(id="x").details == {"id": "x"}
    assert str(SchedulerError("words")) == "words"


def test_log_lines_are_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    try:
        log.set_up()
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("part").exception("it %s", "broke", extra={"action": "broken"})
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    printed = capsys.readouterr()
    line = json.loads(printed.err)
    assert printed.out == ""
    assert (line["message"], line["action"], line["level"]) == ("it broke", "broken", "error")
    assert "ValueError: why" in line["exception"]


# Handlers


def test_three_types_have_handlers() -> None:
    assert list(HANDLERS) == ["Foo", "Bar", "Baz"]


def test_second_handler_of_a_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'Foo' has a handler already"):
        handles("Foo")(HANDLERS["Foo"])


def test_baz_draws_every_number_and_no_other() -> None:
    run = run_of("Baz")

    async def draw() -> set[str]:
        return {await HANDLERS["Baz"](run) for _ in range(10_000)}

    assert asyncio.run(draw()) == {f"Baz {n}" for n in range(344)}


class Teapot(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(418)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def teapot() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Teapot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_bar_tells_the_status_of_its_site(teapot: str) -> None:
    async def ask() -> str:
        return await HANDLERS["Bar"](run_of("Bar", teapot))

    assert asyncio.run(ask()) == "418"


# Isolation


async def isolated_line(run: Run) -> str:
    place = await isolation.IsolatedProcess.start(run)
    try:
        return await place.line()
    finally:
        await place.end()


@pytest.mark.wall_clock
def test_isolated_handler_gives_its_line() -> None:
    assert asyncio.run(isolated_line(run_of("Baz"))).startswith("Baz ")


@pytest.mark.wall_clock
def test_isolated_handler_fails_with_what_it_raised() -> None:
    with pytest.raises(HandlerFailed, match="ClientConnectorError: "):
        asyncio.run(isolated_line(run_of("Bar")))


@pytest.mark.parametrize(("raised", "error"), ODD_ERRORS)
def test_whatever_a_handler_raises_its_own_process_tells(
    raised: BaseException, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(run: Run) -> str:
        raise raised

    monkeypatch.setitem(HANDLERS, "Odd", odd)
    assert isolation._outcome(run_of("Odd")) == (False, error)


def test_handler_that_stops_its_loop_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stops(run: Run) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1)
        return "never"

    monkeypatch.setitem(HANDLERS, "Odd", stops)
    text = "RuntimeError: Event loop stopped before Future completed."
    assert isolation._outcome(run_of("Odd")) == (False, text)


def test_handler_whose_task_exits_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def exits() -> None:
        raise SystemExit(5)

    async def leaves(run: Run) -> str:
        asyncio.get_running_loop().create_task(exits())
        await asyncio.sleep(1)
        return "never"

    monkeypatch.setitem(HANDLERS, "Odd", leaves)
    assert isolation._outcome(run_of("Odd")) == (False, "SystemExit: 5")


@pytest.mark.wall_clock
def test_cancelling_ends_the_process() -> None:
    async def cancel() -> None:
        async with asyncio.timeout(1.5):
            await isolated_line(run_of("Foo"))

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())


# Tick


@pytest.mark.wall_clock
def test_tick_runs_what_is_due(
    client: Client, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = SystemClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)
    ids, now_ms = Ids(5), clock.now_ms()
    tasks = [
        store.create(new_task(ids, send_ts_ms=now_ms + 100 * i, now_ms=now_ms)) for i in range(9)
    ]
    end_s = clock.monotonic_s() + 11.5
    counts = tick.run(lambda: (end_s - clock.monotonic_s()) * 1000, settings, clock)
    assert counts["completed"] == 9
    done: list[Task] = [store.get(task.id) for task in tasks]
    assert {task.state for task in done} == {TaskState.COMPLETED}
    assert sorted(capfd.readouterr().out.split("\n")) == sorted(
        ["", *(str(t.result) for t in done)]
    )


@pytest.mark.wall_clock
def test_tick_without_time_claims_nothing(client: Client, settings: Settings) -> None:
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix, shards=4)
    now_ms = SystemClock().now_ms()
    task = store.create(new_task(Ids(6), send_ts_ms=now_ms + 3_000, now_ms=now_ms))
    tick.run(lambda: 3_000, settings)
    assert store.get(task.id).state is TaskState.SCHEDULED


# Wrong clocks, through a real engine


class Ahead(SystemClock):
    def now_ms(self) -> int:
        return super().now_ms() + 60_000


@pytest.mark.wall_clock
def test_tick_on_a_clock_that_is_ahead_starts_nothing_early(
    client: Client, settings: Settings
) -> None:
    store = AlternatorTaskStore(client, SystemClock(), prefix=settings.table_prefix, shards=4)
    now_ms = SystemClock().now_ms()
    task = store.create(new_task(Ids(7), send_ts_ms=now_ms + 30_000, now_ms=now_ms))
    ends_s = SystemClock().monotonic_s() + 13
    tick.run(lambda: (ends_s - SystemClock().monotonic_s()) * 1000, settings, Ahead())
    assert store.get(task.id).attempt == 0


@pytest.mark.wall_clock
def test_views_go_by_the_clock_of_the_store(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in service_env(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry, "SystemClock", Ahead)
    made = entry._made.__wrapped__()
    made.ready()
    assert abs(made.clock.now_ms() - SystemClock().now_ms()) < 2_100
    cast(AlternatorTaskStore, made.store)._client.close()
