"""Docker by its command line, and the service of compose.yaml."""

import ctypes
import http.client
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from chalicelib.clock import SystemClock
from local.settings import ROOT

CLOCK = SystemClock()
PR_SET_PDEATHSIG = 1


def wait_for(what: Callable[[], object], within_s: float) -> None:
    until_s = CLOCK.monotonic_s() + within_s
    while not what():
        assert CLOCK.monotonic_s() < until_s, f"not within {within_s} s"
        Event().wait(0.1)


@dataclass(frozen=True)
class Docker:
    """env: what the docker command gets, DOCKER_HOST among it where it is not the usual one."""

    env: Mapping[str, str]

    def run(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def __call__(self, *arguments: str, **env: str) -> str:
        """What the command prints; it must succeed."""
        done = self.run(*arguments, **env)
        assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def runs(self, *arguments: str) -> bool:
        return self.run(*arguments).returncode == 0

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]


@contextmanager
def own_engine(folder: Path) -> Iterator[Docker]:
    """A Docker engine whose files and socket are in the folder; ended with this process."""
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", f"{folder}/data", "--group", "0"]
    command += ["--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    docker = Docker({**os.environ, "DOCKER_HOST": host})
    with open(folder / "log", "wb") as log:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    try:
        wait_for(lambda: docker.runs("info") or engine.poll() is not None, 60)
        assert engine.poll() is None, (folder / "log").read_text()[-5_000:]
        yield docker
    finally:
        engine.terminate()
        engine.wait(60)


class Service:
    """A project of compose.yaml with a name of its own."""

    def __init__(self, docker: Docker, env: Mapping[str, str], port: int, *options: str) -> None:
        self.docker = docker
        self.port = port
        self._env = {**env, "PORT": str(port)}
        self._project = f"scheduler-{uuid.uuid4().hex[:8]}"
        self._options = options

    def compose(self, *arguments: str) -> str:
        project = ["--project-name", self._project, "--file", "local/compose.yaml"]
        return self.docker("compose", *project, *self._options, *arguments, **self._env)

    def up(self) -> None:
        """What a user does who types `docker compose up`, until the API answers."""
        self.compose("up", "--detach", "--no-build")
        wait_for(self._is_ready, 60)

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "10")

    def containers(self, service: str) -> list[str]:
        """Names, the stopped ones too."""
        lines = self.compose("ps", "--all", "--format", "json", service).splitlines()
        return sorted(json.loads(line)["Name"] for line in lines)

    def is_healthy(self, container: str) -> bool:
        return bool(self.docker.inspect(container)["State"]["Health"]["Status"] == "healthy")

    def printed(self, container: str) -> list[str]:
        """The lines of its stdout."""
        done = self.docker.run("logs", container)
        return done.stdout.splitlines()

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "200")

    def request(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = json.loads(answer.read())
        connection.close()
        assert answer.status in (200, 201), data
        return data

    def create(self, type: str, count: int = 1, delay_s: float = 0.0) -> list[str]:
        send_ts = datetime.fromtimestamp(CLOCK.now_ms() / 1000 + delay_s, UTC).isoformat()
        tasks = [{"type": type, "send_ts": send_ts} for _ in range(count)]
        results = self.request("POST", "/tasks", {"tasks": tasks})["results"]
        return [result["task"]["id"] for result in results]

    def tasks(self, ids: list[str]) -> list[Any]:
        return [self.request("GET", f"/task/{id}") for id in ids]

    def wait_completed(self, ids: list[str], within_s: float) -> list[Any]:
        left = list(ids)

        def is_over() -> bool:
            while left and self.request("GET", f"/task/{left[-1]}")["state"] == "completed":
                left.pop()
            return not left

        wait_for(is_over, within_s)
        return self.tasks(ids)

    def _is_ready(self) -> bool:
        try:
            return bool(self.request("GET", "/ready"))
        except (OSError, http.client.HTTPException, AssertionError):
            return False
