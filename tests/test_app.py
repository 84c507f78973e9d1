"""The wiring of app.py, on a real engine."""

from typing import cast

import pytest

import app as entry
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
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
