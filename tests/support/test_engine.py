"""Another engine by ENGINE_URL: what is refused, and that a run leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.tables import TABLES
from chalicelib.store.alternator.wire.client import Client
from local.settings import ROOT
from tests.conftest import embedded_engine, free_port
from tests.support import engine as engines
from tests.support.engine import Engine
from tests.support.fakes import FakeClock, Ids, new_task
from tests.support.front import HOSTS, front, signature_check


def test_an_engine_is_named_with_who_asks_it() -> None:
    assert engines.named({"ENGINE_URL": "", "ALTERNATOR_USER": "u"}) is None
    assert engines.named({"ENGINE_URL": "http://a:1/"}) == Settings(endpoints=("http://a:1",))
    env = {"ENGINE_URL": "http://a", "ALTERNATOR_USER": "u", "ALTERNATOR_SECRET": "s"}
    assert engines.named(env) == Settings(endpoints=("http://a",), user="u", secret="s")


@pytest.mark.parametrize(
    "url",
    ["a:1", "https://a:1", "http://", "http://a:0", "http://a:99999", "http://[", "http://a:1/x",
     "http://a:1?x", "http://u@a:1", "http://a:1 "],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_named_with_what_was_expected(url: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        engines.named({"ENGINE_URL": url})
    assert str(error.value).startswith(f"ENGINE_URL={url!r}: expected http://host:port")


def test_an_engine_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PATIENCE_S", 0.1)
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InvalidSetting, match=rf"ENGINE_URL='{url}': .* not answer.*; expected"):
        engines.must_answer(Settings(endpoints=(url,)))


def test_an_engine_that_refuses_us_is_told(engine: Engine) -> None:
    engines.must_answer(engine.settings)
    with front(engine.settings, HOSTS[0]) as nodes:
        nodes.check = signature_check("somebody", "secret")
        with pytest.raises(InvalidSetting, match=r"ENGINE_URL=.*ALTERNATOR_USER.*; expected"):
            engines.must_answer(Settings(endpoints=(nodes.url(),)))


def test_tables_are_emptied(client: Client, settings: Settings) -> None:
    clock, ids, prefix = FakeClock(), Ids(), settings.table_prefix
    store = AlternatorTaskStore(client, clock, prefix=prefix, shards=4)
    deleted, *_ = store.create_many([new_task(ids) for _ in range(30)])
    assert not isinstance(deleted, Exception)
    store.delete(deleted.id, now_ms=clock.now_ms(), token=ids())
    for name in "ab":
        row = {"fleet": {"S": "all"}, "processor": {"S": name}}
        client.decide(requests.put_row(f"{prefix}workers", row))

    def rows() -> list[int]:
        scans = [requests.scan(prefix + table.name, 0, 1, None) for table in TABLES]
        return [len([*client.items(scan)]) for scan in scans]

    assert min(rows()) >= 2
    engines.empty(client, prefix)
    assert rows() == [0] * len(TABLES)


SUITE = """
import threading
import pytest
from chalicelib.store.alternator import requests

def test_that_fails(client, settings):
    client.decide(requests.put_row(f"{settings.table_prefix}workers", ROW))
    assert False

def test_that_comes_after_it(client, settings):
    assert not [*client.items(requests.scan(f"{settings.table_prefix}workers", 0, 1, None))]

@pytest.mark.own_tables
def test_that_does_not_end(client):
    threading.Event().wait(60)

ROW = {"fleet": {"S": "all"}, "processor": {"S": "p"}}
"""


def pytest_on(engine_url: str, *options: str) -> "subprocess.Popen[str]":
    """A run of its own, in a session of its own."""
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", *plugins, *options],
        cwd=ROOT,
        env=os.environ | {"ENGINE_URL": engine_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What runs in the background may ignore it, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.wall_clock
def test_a_run_on_what_is_no_engine_ends_in_one_line(tmp_path: Path) -> None:
    run = pytest_on("nowhere", str(tmp_path))
    said, _ = run.communicate(timeout=30)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = said.strip().splitlines()
    assert line.startswith("ERROR: ENGINE_URL='nowhere': expected http://host:port")


@pytest.mark.own_engine
@pytest.mark.wall_clock
@pytest.mark.parametrize(
    ("processes", "interrupt"),
    [
        ("1", lambda pid: os.killpg(pid, signal.SIGINT)),
        ("0", lambda pid: os.kill(pid, signal.SIGTERM)),
    ],
    ids=["ctrl-c", "SIGTERM"],
)
def test_a_run_that_fails_and_is_interrupted_leaves_nothing(
    processes: str, interrupt: Callable[[int], None], tmp_path: Path
) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    with embedded_engine() as url:
        client = Client.connect(Settings(endpoints=(url,)), SystemClock())
        run = pytest_on(url, str(suite), "-n", processes)
        try:
            while len([*engines.table_names(client)]) < 2 * len(TABLES):
                assert run.poll() is None, run.communicate()
                Event().wait(0.1)
            interrupt(run.pid)
            said, _ = run.communicate(timeout=30)
        finally:
            run.kill()
        assert run.returncode == pytest.ExitCode.INTERRUPTED, said
        assert "1 failed, 1 passed" in said
        assert [*engines.table_names(client)] == []
        client.close()
