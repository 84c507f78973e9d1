"""Settings, read from the environment and checked once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from chalicelib.errors import InvalidSetting

BAR_URL = "https://www.whattimeisitrightnow.com/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a process of the service can be told.

    endpoints: base URLs of the store's nodes, all of one scheme and port.
    user, secret: the store's credentials; any will do where it does not check them. The secret
    stands in ALTERNATOR_SECRET, or alone in the file that ALTERNATOR_SECRET_FILE names.
    ca_file: certificates to trust for https endpoints.
    table_prefix: put before the name of each table.
    shards: parts of the time indexes; more of them carry more tasks a second.
    batch_size: tasks that one processor runs at a time.
    """

    endpoints: tuple[str, ...] = ("http://127.0.0.1:8001",)
    region: str = "us-east-1"
    user: str = "local"
    secret: str = "local"
    ca_file: str | None = None
    table_prefix: str = ""
    shards: int = 16
    batch_size: int = 100
    lookahead_s: float = 2.0
    poll_interval_s: float = 0.8
    bar_url: str = BAR_URL

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the environment. Raises InvalidSetting naming the variable."""
        env = os.environ if env is None else env
        return cls(
            endpoints=_endpoints(env.get("ALTERNATOR_ENDPOINTS", "http://127.0.0.1:8001")),
            region=env.get("ALTERNATOR_REGION") or "us-east-1",
            user=env.get("ALTERNATOR_USER") or "local",
            secret=_secret(env),
            ca_file=env.get("ALTERNATOR_CA_FILE") or None,
            table_prefix=_prefix("TABLE_PREFIX", env.get("TABLE_PREFIX", "")),
            shards=_integer(env, "SHARDS", 16, 1, 4096),
            batch_size=_integer(env, "BATCH_SIZE", 100, 1, 1000),
            lookahead_s=_seconds(env, "LOOKAHEAD_S", 2.0, 0.1, 60),
            poll_interval_s=_seconds(env, "POLL_INTERVAL_S", 0.8, 0.05, 30),
            bar_url=_url("BAR_URL", env.get("BAR_URL") or BAR_URL),
        )._checked()

    def _checked(self) -> Self:
        if self.lookahead_s <= self.poll_interval_s:
            raise InvalidSetting(
                f"LOOKAHEAD_S ({self.lookahead_s}) must be longer than "
                f"POLL_INTERVAL_S ({self.poll_interval_s})"
            )
        return self


def _endpoints(text: str) -> tuple[str, ...]:
    name = "ALTERNATOR_ENDPOINTS"
    urls = tuple(_url(name, part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise InvalidSetting(f"{name} is empty; expected http://host:port, several by commas")
    if len({(urlsplit(url).scheme, urlsplit(url).port) for url in urls}) > 1:
        raise InvalidSetting(f"{name}={text!r}: all endpoints must share one scheme and port")
    return urls


def _url(name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidSetting(f"{name}={text!r}: expected a URL such as http://127.0.0.1:8001")
    return text


def _secret(env: Mapping[str, str]) -> str:
    """No error holds any of it."""
    given, name = env.get("ALTERNATOR_SECRET"), env.get("ALTERNATOR_SECRET_FILE")
    if not name:
        return given or "local"
    if given:
        raise InvalidSetting("ALTERNATOR_SECRET and ALTERNATOR_SECRET_FILE are both set: keep one")
    refused = f"ALTERNATOR_SECRET_FILE={name!r}:"
    try:
        secret = Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise InvalidSetting(f"{refused} it cannot be read ({error.strerror})") from error
    except ValueError:
        raise InvalidSetting(f"{refused} it cannot be read (not UTF-8)") from None
    if not secret.strip():
        raise InvalidSetting(f"{refused} it is empty")
    if "\n" in secret:
        raise InvalidSetting(f"{refused} expected nothing but the secret in one line")
    return secret


def _prefix(name: str, text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,100}", text):
        raise InvalidSetting(f"{name}={text!r}: expected at most 100 of A-Z a-z 0-9 _ . -")
    return text


def _integer(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise InvalidSetting(f"{name}={text!r}: expected an integer from {least} to {most}")
    return int(text)


def _seconds(env: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise InvalidSetting(f"{name}={text!r}: expected seconds from {least} to {most}")
    return value
