"""The wiring of app.py."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from chalice.test import Client as Caller

import app as entry
from chalicelib import errors
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.processing import tick
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.store.memory import MemoryStore, Tables
from local.settings import ROOT
from tests.support.api_service import NOW, expect_error
from tests.support.cluster import service_env
from tests.support.fakes import ClockAhead


@pytest.mark.wall_clock
def test_views_go_by_the_clock_of_the_store(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in service_env(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry, "SystemClock", ClockAhead)
    made = entry._made.__wrapped__()
    made.ready()
    assert abs(made.clock.now_ms() - SystemClock().now_ms()) < 2_100
    cast(AlternatorTaskStore, made.store)._client.close()


def test_the_service_is_made_once_and_verified_until_it_was_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Settings] = []
    outcomes: Iterator[Exception | None] = itertools.chain(
        [errors.StoreMismatch("The table is not there.")], itertools.repeat(None)
    )
    checks = []

    class Checked(MemoryStore):
        def check(self) -> None:
            checks.append(outcome := next(outcomes))
            if outcome:
                raise outcome

    def connect(settings: Settings, clock: object) -> MemoryStore:
        made.append(settings)
        return Checked(Tables())

    monkeypatch.setattr(AlternatorTaskStore, "connect", connect)
    entry._made.cache_clear()
    try:
        http = Caller(entry.app, project_dir=str(ROOT)).http
        refused = http.get("/task")
        expect_error(refused, 503, "StoreMismatch")
        assert refused.json_body["Message"] == "The table is not there."
        assert [http.get("/task").status_code for _ in range(3)] == [200, 200, 200]
    finally:
        entry._made.cache_clear()
    assert len(made) == 1
    assert len(checks) == 2


def test_a_setting_that_cannot_be_used_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHARDS", "many")
    entry._made.cache_clear()
    response = Caller(entry.app, project_dir=str(ROOT)).http.get("/task")
    expect_error(response, 500, "InternalError")
    assert "SHARDS" in caplog.text


def test_on_lambda_nothing_is_open_that_was_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "api")
    entry.api_settings.cache_clear()
    try:
        http = Caller(entry.app, project_dir=str(ROOT)).http
        expect_error(http.get("/task"), 403, "Forbidden")
        assert http.get("/health").status_code == 200
    finally:
        entry.api_settings.cache_clear()


@pytest.mark.wall_clock
def test_preflights_are_there_for_sites_that_are_named() -> None:
    code = "import app; print(*('OPTIONS' in views for views in app.app.routes.values()))"
    for env, there in (({"CORS_ORIGINS": "https://a.example.org"}, "True"), ({}, "False")):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **env},
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(answer.stdout.split()) == {there}


def test_the_tick_has_the_time_that_lambda_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 59_000

    def run(remaining_ms: Callable[[], int], *, tells_metrics: bool) -> dict[str, int]:
        return {"remaining_ms": remaining_ms(), "tells_metrics": tells_metrics}

    monkeypatch.setattr(tick, "run", run)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "tick")
    event = {
        "version": "0",
        "account": "0",
        "region": "us-east-1",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": NOW,
        "id": "1",
        "resources": [],
    }
    assert entry.app.handler_map["tick"](event, Context()) == {
        "remaining_ms": 59_000,
        "tells_metrics": True,
    }


def test_config_leaves_the_environment_to_the_shell() -> None:
    text = (ROOT / ".chalice" / "config.json").read_text()
    assert "environment_variables" not in text
    config = json.loads(text)
    assert config["app_name"] == "scheduler"
    assert set(config["stages"]) == {"dev", "prod"}
    assert config["lambda_functions"]["tick"]["lambda_timeout"] == 60


@pytest.mark.wall_clock
def test_importing_the_app_takes_no_environment_and_no_client() -> None:
    heavy = {"boto3", "chalice.local", "aiohttp", "local"}
    code = f"import app, sys; print({heavy} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (answer.stdout, answer.stderr) == ("set()\n", "")
