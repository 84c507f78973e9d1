"""Health and readiness."""

import pytest
from chalice.test import Client

import app as entry
from chalicelib import errors
from chalicelib.api.failures import PUBLIC_MESSAGE
from chalicelib.api.readiness import WRITE_CHECK_EVERY_S
from chalicelib.store.contract import Pressure
from local.settings import ROOT
from tests.support.api_service import Service, TakesNoWrites, expect_error


def test_health_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "service", None)
    response = Client(entry.app, project_dir=str(ROOT)).http.get("/health")
    assert (response.status_code, response.json_body) == (200, {"status": "ok"})


def test_ready_asks_the_store(service: Service) -> None:
    response = service.http.get("/ready")
    expected = {"status": "ok", "store": "ok", "latency_ms": 0}
    assert (response.status_code, response.json_body) == (200, expected)


def test_ready_tells_that_the_store_takes_no_writes_and_asks_seldom(service: Service) -> None:
    store = service.use(TakesNoWrites(service.tables))
    for _ in range(3):
        response = service.http.get("/ready")
        assert expect_error(response, 503, "StoreReadOnly") == {}
        assert response.json_body["Message"] == PUBLIC_MESSAGE[errors.StoreReadOnly]
        assert response.headers["Retry-After"] == "1"
    assert store.asked == 1
    store.error = None
    service.clock.tick(WRITE_CHECK_EVERY_S)
    assert [service.http.get("/ready").status_code for _ in range(3)] == [200] * 3
    assert store.asked == 2


def test_ready_tells_that_the_store_is_slow(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Pressure(requests=1.5, latency_s=0.25, delay_s=0.2)
    monkeypatch.setattr(service.store, "pressure", lambda: slow)
    response = service.http.get("/ready")
    expected = {"status": "ok", "store": "slow", "latency_ms": 250}
    assert (response.status_code, response.json_body) == (200, expected)
