"""What a local run can be told by the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chalicelib.env import URL_EXPECTED, integer, switch, url
from chalicelib.errors import InvalidSetting

ROOT = Path(__file__).resolve().parent.parent

SCYLLA_IMAGE = "scylladb/scylla:2026.1.11"
ENGINES = ("auto", "embedded", "docker")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSettings:
    """port: of the API; engine_port: of the store, unless `engine` is the URL of one.

    workers: processes of the worker; 0 starts none. tick: whether it runs every minute.
    data: the folder that keeps the tasks. scylla_image: what `engine` docker runs.
    """

    port: int = 8000
    engine_port: int = 8001
    workers: int = 1
    tick: bool = True
    engine: str = "auto"
    data: Path = ROOT / ".data"
    scylla_image: str = SCYLLA_IMAGE

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the environment; empty is unset. Raises InvalidSetting naming the variable."""
        env = os.environ if env is None else env
        return cls(
            port=integer(env, "PORT", 8000, 1, 65535),
            engine_port=integer(env, "ENGINE_PORT", 8001, 1, 65535),
            workers=integer(env, "WORKERS", 1, 0, 64),
            tick=switch(env, "TICK"),
            engine=_engine(env.get("ENGINE") or "auto"),
            data=ROOT / (env.get("DATA") or ".data"),
            scylla_image=env.get("SCYLLA_IMAGE") or SCYLLA_IMAGE,
        )._checked()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine_is_elsewhere(self) -> bool:
        """The store is somebody else's: nothing is started for it, nothing kept here."""
        return self.engine not in ENGINES

    def _checked(self) -> Self:
        if self.port == self.engine_port and not self.engine_is_elsewhere:
            raise InvalidSetting(f"PORT and ENGINE_PORT are both {self.port}: they must differ")
        return self


def _engine(text: str) -> str:
    if text in ENGINES:
        return text
    return url("ENGINE", text, f"auto, embedded, docker or {URL_EXPECTED}").rstrip("/")
