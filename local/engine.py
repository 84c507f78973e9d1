"""The store of a local run: the embedded engine, ScyllaDB in Docker, or one that is elsewhere."""

import http.client
import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from chalicelib.clock import Clock
from chalicelib.errors import InvalidSetting
from local.processes import LOOK_EVERY_S, Program, Signals, StartFailed, Supervisor, say
from local.settings import ROOT, LocalSettings

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

IMAGE = "scylladb/scylla:2026.1.11"
DOCKER_ANSWER_S = 2
DOCKER_TIMEOUT_S = 60
SAY_EVERY_S = 5.0
EMBEDDED_START_S = 15.0
SCYLLA_START_S = 180.0
SCYLLA_STOP_S = 30


class NoDocker(StartFailed):
    """There is no Docker engine, or no image for it."""


class Engine:
    """A store that this run can use at `url` once `start` has returned."""

    url: str

    def start(self) -> None:
        """Return once it answers. Raises StartFailed, or Stopping when told to end."""

    def stop(self) -> None:
        """End what the supervisor does not end."""


class Elsewhere(Engine):
    """A store that somebody else runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        say(f"engine: {self.url}")


class Embedded(Engine):
    """A process of this run that keeps its tables in one file."""

    def __init__(self, settings: LocalSettings, supervisor: Supervisor, clock: Clock) -> None:
        self.url = f"http://127.0.0.1:{settings.engine_port}"
        self._port = settings.engine_port
        self._file = settings.data / "engine.db"
        self._supervisor = supervisor
        address = ["--host", "127.0.0.1", "--port", str(settings.engine_port)]
        self._program = Program(
            "engine",
            [binary(), "serve", *address, "--db-path", str(self._file)],
            os.environ,
            clock,
            is_apart=True,
            grace_s=5.0,
        )

    def start(self) -> None:
        must_be_free("ENGINE_PORT", self._port)
        say(f"engine: embedded, tasks in {self._file}")
        self._supervisor.start(self._program)
        self._supervisor.wait_until(
            lambda: fetch(f"{self.url}/") is not None, "the engine", EMBEDDED_START_S
        )


class Docker(Engine):
    """A container with ScyllaDB; its volume is named after the folder that DATA names."""

    def __init__(
        self,
        client: "DockerClient",
        settings: LocalSettings,
        supervisor: Supervisor,
        signals: Signals,
        clock: Clock,
    ) -> None:
        self.url = f"http://127.0.0.1:{settings.engine_port}"
        self._port = settings.engine_port
        self._name = f"scheduler-{zlib.crc32(bytes(settings.data)):08x}"
        self._client = client
        self._supervisor = supervisor
        self._signals = signals
        self._clock = clock
        self._container: Container | None = None

    def start(self) -> None:
        from docker.errors import DockerException

        try:
            self._run()
        except DockerException as error:
            raise StartFailed(f"ScyllaDB cannot be started in Docker: {error}") from error
        report = _every(SAY_EVERY_S, self._clock)
        self._supervisor.wait_until(lambda: self._answers(report), "ScyllaDB", SCYLLA_START_S)

    def stop(self) -> None:
        if self._container is None:
            return
        with ThreadPoolExecutor(1) as beside:
            stopped = beside.submit(self._container.stop, timeout=SCYLLA_STOP_S)
            while not stopped.done() and not self._signals.in_a_hurry:
                time.sleep(LOOK_EVERY_S)
            self._container.remove(force=True)

    def _run(self) -> None:
        # The lock on DATA is ours, so a container of that name is what a killed run left.
        for container in self._client.containers.list(all=True, filters={"name": self._name}):
            container.remove(force=True)
        must_be_free("ENGINE_PORT", self._port)
        say(f"engine: {IMAGE} in Docker, tasks in the volume {self._name}; it starts ...")
        self._container = self._client.containers.run(
            IMAGE,
            self._flags(),
            name=self._name,
            detach=True,
            ports={f"{self._port}/tcp": ("127.0.0.1", self._port)},
            volumes={self._name: {"bind": "/var/lib/scylla", "mode": "rw"}},
            restart_policy={"Name": "on-failure"},
        )

    def _flags(self) -> list[str]:
        # Clients find the nodes through /localnodes and go to their addresses on the port that
        # they know: so the node has to give the address and the port that lead in from outside.
        flags = f"""
            --smp 1 --memory 1G --overprovisioned 1 --developer-mode 1 --auto-snapshot 0
            --alternator-port {self._port} --alternator-address 0.0.0.0
            --broadcast-rpc-address 127.0.0.1
            --alternator-write-isolation always_use_lwt
            --alternator-ttl-period-in-seconds 60
        """
        return flags.split()

    def _answers(self, report: Callable[[str], None]) -> bool:
        assert self._container
        self._container.reload()
        if self._container.status != "running" or self._container.attrs["RestartCount"]:
            last = self._container.logs(tail=1).decode(errors="replace").strip()
            raise StartFailed(f"ScyllaDB ended while it started: {last}")
        report("ScyllaDB still starts")
        return bool(json.loads(fetch(f"{self.url}/localnodes") or b"[]"))


def choose(
    settings: LocalSettings, supervisor: Supervisor, signals: Signals, clock: Clock
) -> Engine:
    """The engine that ENGINE names, ready to start. Raises StartFailed if it is not to be had."""
    if settings.engine_is_elsewhere:
        return Elsewhere(settings.engine)
    if settings.engine in ("auto", "docker"):
        try:
            client = docker_with_image(signals, clock)
            return Docker(client, settings, supervisor, signals, clock)
        except NoDocker as missing:
            if settings.engine == "docker":
                raise NoDocker(f"ENGINE=docker: {missing}") from missing
            say(f"{missing}: using the embedded engine")
    return Embedded(settings, supervisor, clock)


def binary() -> str:
    """The embedded engine: what npm brought, else one on the PATH. Raises StartFailed."""
    for name in ("dynoxide", "dynoxide.exe"):
        for path in ROOT.glob(f"node_modules/@dynoxide/*/{name}"):
            return str(path)
    found = shutil.which("dynoxide")
    if found is None:
        raise StartFailed("the embedded engine is not installed: run `make engine`")
    return found


def must_be_free(name: str, port: int) -> None:
    """Raise InvalidSetting if another program listens on the port that `name` sets."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InvalidSetting(
                f"{name}={port}: the port cannot be used ({error.strerror}); set another {name}"
            ) from error


def fetch(url: str) -> bytes | None:
    """The body of a 200 answer; None for any other and for none. No proxy is asked."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2.0)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def docker_with_image(signals: Signals, clock: Clock) -> "DockerClient":
    """A Docker engine that has ScyllaDB's image, pulled if need be. Raises NoDocker."""
    import docker  # Half a second that a run without Docker does not owe.
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env(timeout=DOCKER_ANSWER_S)
    except DockerException as error:
        raise NoDocker("no Docker engine answers") from error
    client.api.timeout = DOCKER_TIMEOUT_S
    try:
        client.images.get(IMAGE)
    except ImageNotFound:
        _pull(client, signals, clock)
    return client


def _pull(client: "DockerClient", signals: Signals, clock: Clock) -> None:
    from docker.errors import APIError

    say(f"pulling {IMAGE} ...")
    report = _every(SAY_EVERY_S, clock)
    megabytes: dict[str, int] = {}
    try:
        for event in client.api.pull(IMAGE, stream=True, decode=True):
            signals.check()
            if "error" in event:
                raise NoDocker(f"{IMAGE} cannot be pulled ({event['error']})")
            detail = event.get("progressDetail") or {}
            layer, received = event.get("id", ""), detail.get("current", 0) // 1_000_000
            megabytes[layer] = max(megabytes.get(layer, 0), received)
            report(f"pulling {IMAGE}: {event.get('status', '')}, {sum(megabytes.values())} MB")
    except APIError as error:
        raise NoDocker(f"{IMAGE} cannot be pulled ({error.explanation})") from error


def _every(wait_s: float, clock: Clock) -> Callable[[str], None]:
    """A `say` that keeps quiet until `wait_s` have passed since its last line."""
    last_s = clock.monotonic_s()

    def report(line: str) -> None:
        nonlocal last_s
        if clock.monotonic_s() - last_s >= wait_s:
            last_s = clock.monotonic_s()
            say(line)

    return report
