"""The real service for the page: an engine, workers, and APIs that can be stopped."""

import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from bench.machine import children_of
from chalicelib.clock import SystemClock, pause
from chalicelib.config import Settings
from chalicelib.times import rfc3339
from local.run import create_tables
from local.settings import ROOT
from tests.conftest import free_port, wait_for_port
from tests.support.cluster import service_env

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
"""In payloads and errors of tasks; no browser may take it for markup."""
START_S = 30.0
POLL_S = 0.1


@dataclass
class ApiProcess:
    """One API of its own port. env: what its environment has beside the settings."""

    settings: Settings
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["local", "--no-autoreload", "--port", str(self.port)]
        self.process = run(self.settings, self.log, "tests.browser.api", *options, **self.env)
        wait_for_port(self.port)
        until_ready(self.url)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None

    def create(self, type: str, delay_s: float = 0.0, **fields: Any) -> str:
        """The id of a new task."""
        ms = SystemClock().now_ms() + round(delay_s * 1000)
        body = {"type": type, "send_ts": rfc3339(ms), **fields}
        answer = requests.post(f"{self.url}/task", json=body, timeout=10)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def task(self, task_id: str) -> Any:
        return requests.get(f"{self.url}/task/{task_id}", timeout=10).json()

    def listed(self, **query: str) -> list[Any]:
        """The newest tasks of a list."""
        query = {"order": "desc", **query}
        tasks: list[Any] = requests.get(f"{self.url}/task", params=query, timeout=10).json()[
            "tasks"
        ]
        return tasks

    def wait_until(self, task_id: str, state: str, seconds: float = 20.0) -> None:
        clock = SystemClock()
        until_s = clock.monotonic_s() + seconds
        while self.task(task_id).get("state") != state:
            assert clock.monotonic_s() < until_s, self.task(task_id)
            pause(POLL_S)


@dataclass
class Workers:
    """A worker of several processes."""

    settings: Settings
    log: Path
    processes: int = 3

    def __enter__(self) -> "Workers":
        options = ["--processes", str(self.processes)]
        self.process = run(self.settings, self.log, "tests.browser.worker", *options)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in children_of(self.process.pid):
                subprocess.run(["kill", "-9", str(pid)], check=False)
            self.process.kill()
            self.process.wait()


def run(settings: Settings, log: Path, module: str, *options: str, **env: str) -> Any:
    """A process of a module of these tests. It prints into the log."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *options],
            cwd=ROOT,
            env=service_env(settings) | env,
            stdout=file,
            stderr=file,
        )


def prepared(url: str) -> Settings:
    """Settings for the engine at this URL, with tables."""
    settings = Settings(endpoints=(url,))
    create_tables(settings, SystemClock())
    return settings


def until_ready(url: str) -> None:
    clock = SystemClock()
    until_s = clock.monotonic_s() + START_S
    while clock.monotonic_s() < until_s:
        try:
            with closing(requests.get(f"{url}/ready", timeout=5)) as answer:
                if answer.status_code == 200:
                    return
        except requests.ConnectionError:
            pass
        pause(POLL_S)
    raise TimeoutError(f"{url} is not ready")
