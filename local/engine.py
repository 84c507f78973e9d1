"""The store of a local run: the embedded engine, or one that is elsewhere."""

import http.client
import os
import shutil
import socket
from urllib.parse import urlsplit

from chalicelib.clock import Clock
from chalicelib.errors import InvalidSetting
from local.processes import Program, StartFailed, Supervisor, say
from local.settings import ROOT, LocalSettings

EMBEDDED_START_S = 15.0


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
