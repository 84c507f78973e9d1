"""A browser, and the service that it looks at."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from chalicelib.config import Settings
from tests.browser.service import MARKUP, ApiProcess, Workers, prepared
from tests.conftest import embedded_engine

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 15_000
FAILING = 8


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def store(folder: Path) -> Iterator[Settings]:
    """An engine of its own, with tables."""
    with embedded_engine() as url:
        yield prepared(url)


@pytest.fixture(scope="session")
def api(store: Settings, folder: Path) -> Iterator[ApiProcess]:
    """The service with three processors, for all tests."""
    api = ApiProcess(store, folder / "log")
    with Workers(store, folder / "log"):
        try:
            api.start()
            yield api
        finally:
            api.stop()


@pytest.fixture(scope="session")
def failed(api: ApiProcess) -> Iterator[str]:
    """Each `next` is another failed task; they were made at once, since to fail takes its time."""
    ids = [api.create("Mending", payload={"note": MARKUP}) for _ in range(FAILING)]
    for _ in range(2 * FAILING):
        api.create("Baz")
    for one in ids:
        api.wait_until(one, "failed")
    return iter(ids)


@pytest.fixture
def another_api(
    store: Settings, folder: Path, api: ApiProcess
) -> Iterator[Callable[..., ApiProcess]]:
    """Starts an API of a test's own, on the same tasks or on other settings."""
    started: list[ApiProcess] = []

    def start(settings: Settings = store, **env: str) -> ApiProcess:
        started.append(ApiProcess(settings, folder / "log", env))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail("Chromium is missing (Debian: apt-get install chromium; or set CHROMIUM)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


@dataclass
class Console:
    """What pages complain of. allowed: patterns of what a test provokes."""

    errors: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda one: self._note(one.type, f"{one.text} ({one.location})"))
        page.on("pageerror", lambda error: self.errors.append(f"pageerror: {error}"))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def unexpected(self) -> list[str]:
        return [
            text
            for text in self.errors
            if not any(re.search(pattern, text) for pattern in self.allowed)
        ]


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    yield console
    assert console.unexpected() == []


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, console: Console, api: ApiProcess) -> Iterator[Open]:
    """Opens a page: opened("#/tasks", at=…, width=…, color_scheme=…)."""
    contexts: list[BrowserContext] = []

    def open(hash: str = "#/", *, at: str | None = None, width: int = 1200, **options: Any) -> Page:
        options.setdefault("timezone_id", "Europe/Berlin")
        viewport: Any = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=viewport, locale="en-GB", **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        console.watch(page)
        page.goto(f"{at or api.url + '/'}{hash}")
        return page

    yield open
    for context in contexts:
        context.close()
