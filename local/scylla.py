"""ScyllaDB in a Docker container, as the store of a local run."""

import json
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from chalicelib.clock import Clock
from local.engine import Engine, fetch, must_be_free
from local.processes import LOOK_EVERY_S, Signals, StartFailed, Supervisor, say
from local.settings import LocalSettings

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

ANSWER_S = 2
TIMEOUT_S = 60
SAY_EVERY_S = 5.0
START_S = 180.0
STOP_S = 30
LAST_LINES = 5

FAILURES = (DockerException, HTTPError, OSError)
"""What a call of the docker package can raise; those of requests are OSErrors."""


class NoDocker(StartFailed):
    """There is no Docker engine, or no image for it."""


class Pull:
    """An image on its way, in a thread of its own: a registry may be silent for long."""

    def __init__(self, client: "DockerClient", image: str) -> None:
        self._client = client
        self._image = image
        self._status = ""
        self._bytes: dict[str, int] = {}
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def wait(self, signals: Signals, clock: Clock) -> None:
        """Return once the image is here. Raises NoDocker, or Stopping when told to end."""
        report = _every(SAY_EVERY_S, clock)
        self._thread.start()
        while self._thread.is_alive():
            signals.check()
            report(self._progress)
            self._thread.join(LOOK_EVERY_S)
        if self._failure is not None:
            raise NoDocker(f"{self._image} cannot be pulled ({self._failure})")

    def _progress(self) -> str:
        megabytes = sum(self._bytes.copy().values()) // 1_000_000
        return f"pulling {self._image}: {megabytes} MB, {self._status or 'no answer yet'}"

    def _run(self) -> None:
        try:
            for event in self._client.api.pull(self._image, stream=True, decode=True):
                self._note(event)
        except FAILURES as error:
            self._failure = _reason(error)

    def _note(self, event: dict[str, Any]) -> None:
        self._failure = event.get("error", self._failure)
        self._status = event.get("status", self._status)
        if self._status == "Downloading":
            received = event.get("progressDetail", {}).get("current", 0)
            layer = event.get("id", "")
            self._bytes[layer] = max(self._bytes.get(layer, 0), received)


class Scylla(Engine):
    """A container; its volume is named after the folder that DATA names."""

    def __init__(
        self,
        client: "DockerClient",
        settings: LocalSettings,
        supervisor: Supervisor,
        signals: Signals,
        clock: Clock,
    ) -> None:
        self.url = f"http://127.0.0.1:{settings.engine_port}"
        self._image = settings.scylla_image
        self._port = settings.engine_port
        self._name = f"scheduler-{zlib.crc32(bytes(settings.data)):08x}"
        self._client = client
        self._supervisor = supervisor
        self._signals = signals
        self._clock = clock
        self._container: Container | None = None

    def start(self) -> None:
        try:
            self._run()
        except FAILURES as error:
            raise StartFailed(f"ScyllaDB cannot be started in Docker: {_reason(error)}") from error
        started_s, report = self._clock.monotonic_s(), _every(SAY_EVERY_S, self._clock)

        def progress() -> str:
            return f"ScyllaDB still starts ({self._clock.monotonic_s() - started_s:.0f} s) ..."

        def answers() -> bool:
            self._must_run()
            report(progress)
            return bool(json.loads(fetch(f"{self.url}/localnodes") or b"[]"))

        self._supervisor.wait_until(answers, "ScyllaDB", START_S)

    def stop(self) -> None:
        """The volume stays."""
        if self._container is None:
            return
        stopping = threading.Thread(target=self._stop, args=[self._container], daemon=True)
        stopping.start()
        while stopping.is_alive() and not self._signals.in_a_hurry:
            time.sleep(LOOK_EVERY_S)
        try:
            with suppress(NotFound):
                self._container.remove(force=True)
        except FAILURES as error:
            say(f"the container {self._name} cannot be removed: {_reason(error)}")

    def _stop(self, container: "Container") -> None:
        try:
            container.stop(timeout=STOP_S)
        except FAILURES as error:
            say(f"ScyllaDB cannot be stopped: {_reason(error)}")

    def _run(self) -> None:
        # The lock on DATA is ours, so a container of that name is what a killed run left.
        with suppress(NotFound):
            self._client.containers.get(self._name).remove(force=True)
        must_be_free("ENGINE_PORT", self._port)
        say(f"engine: {self._image} in Docker, tasks in the volume {self._name}; it starts ...")
        self._container = self._client.containers.create(
            self._image,
            self._flags(),
            name=self._name,
            detach=True,
            ports={f"{self._port}/tcp": ("127.0.0.1", self._port)},
            volumes={self._name: {"bind": "/var/lib/scylla", "mode": "rw"}},
            restart_policy={"Name": "on-failure"},
        )
        self._container.start()

    def _flags(self) -> list[str]:
        # Clients find the nodes through /localnodes and go to their addresses on the port that
        # they know: so the node has to give the address and the port that lead in from outside.
        flags = f"""
            --smp 1 --memory 1G --overprovisioned 1 --developer-mode 1 --auto-snapshot 0
            --max-networking-io-control-blocks 1000
            --alternator-port {self._port} --alternator-address 0.0.0.0
            --broadcast-rpc-address 127.0.0.1
            --alternator-write-isolation always_use_lwt
            --alternator-ttl-period-in-seconds 60
        """
        return flags.split()

    def _must_run(self) -> None:
        """Raise StartFailed if it has ended, or has ended and been started again."""
        assert self._container
        try:
            self._container.reload()
            if self._container.status == "running" and not self._container.attrs["RestartCount"]:
                return
            last = self._container.logs(tail=LAST_LINES).decode(errors="replace").strip()
        except FAILURES as error:
            raise StartFailed(f"ScyllaDB went away: {_reason(error)}") from error
        raise StartFailed(f"ScyllaDB ended while it started; its last lines:\n{last}")


def docker_with_image(image: str, signals: Signals, clock: Clock) -> "DockerClient":
    """A Docker engine that has the image, pulled if need be. Raises NoDocker or Stopping."""
    try:
        client = docker.from_env(timeout=ANSWER_S)
    except FAILURES as error:
        raise NoDocker("no Docker engine answers") from error
    client.api.timeout = TIMEOUT_S
    try:
        client.images.get(image)
    except ImageNotFound:
        say(f"pulling {image} ...")
        Pull(client, image).wait(signals, clock)
    except FAILURES as error:
        raise NoDocker(f"{image} cannot be had ({_reason(error)})") from error
    return client


def _reason(error: Exception) -> str:
    """One line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _every(wait_s: float, clock: Clock) -> Callable[[Callable[[], str]], None]:
    """A `say` that keeps quiet until `wait_s` have passed since its last line."""
    last_s = clock.monotonic_s()

    def report(line: Callable[[], str]) -> None:
        nonlocal last_s
        if clock.monotonic_s() - last_s >= wait_s:
            last_s = clock.monotonic_s()
            say(line())

    return report
