"""The service that tests of the API use."""

from collections.abc import Iterator

import pytest

import app as entry
from chalicelib.api import endpoints
from chalicelib.task_types import HANDLERS, Run, handles
from tests.support.api_service import Service


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()
    monkeypatch.setattr(entry, "service", lambda: service.api)
    monkeypatch.setattr(entry, "api_settings", lambda: service.settings)
    yield service


NO_TAGS: list[str] = []


@pytest.fixture
def paint() -> Iterator[None]:
    """A fourth task type, with a payload."""

    @handles("Paint")
    async def paint(
        run: Run,
        *,
        colour: str,
        size: int = 1,
        depth: float | None = None,
        tags: list[str] = NO_TAGS,
    ) -> str:
        return f"{colour} {size} {depth} {tags}"

    endpoints.openapi.cache_clear()
    yield
    del HANDLERS["Paint"]
    endpoints.openapi.cache_clear()
