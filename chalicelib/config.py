"""Settings, read from the environment and checked once."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from chalicelib.env import integer, refused, seconds, secret_line, switch, url
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
    retention_days: finished tasks are kept for so long; 0: for ever.
    sweep_rate: rows a second that the sweep of the whole fleet reads.
    wakeup: whether wake-up messages are sent and taken. wakeup_address: the IP address at which
    others reach this machine; None: that of its connection to the store. wakeup_port: the UDP port
    of the first process; 0: the system chooses.
    """

    endpoints: tuple[str, ...] = ("http://127.0.0.1:8001",)
    region: str = "us-east-1"
    user: str = "local"
    secret: str = field(default="local", repr=False)
    ca_file: str | None = None
    table_prefix: str = ""
    shards: int = 16
    batch_size: int = 100
    lookahead_s: float = 2.0
    poll_interval_s: float = 0.8
    retention_days: int = 30
    sweep_rate: int = 500
    bar_url: str = BAR_URL
    wakeup: bool = True
    wakeup_address: str | None = None
    wakeup_port: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the environment. Raises InvalidSetting naming the variable."""
        env = os.environ if env is None else env
        return cls(
            endpoints=_endpoints(env.get("ALTERNATOR_ENDPOINTS", "http://127.0.0.1:8001")),
            region=env.get("ALTERNATOR_REGION") or "us-east-1",
            user=env.get("ALTERNATOR_USER") or "local",
            secret=secret_line(env, "ALTERNATOR_SECRET") or "local",
            ca_file=env.get("ALTERNATOR_CA_FILE") or None,
            table_prefix=_prefix("TABLE_PREFIX", env.get("TABLE_PREFIX", "")),
            shards=integer(env, "SHARDS", 16, 1, 4096),
            batch_size=integer(env, "BATCH_SIZE", 100, 1, 1000),
            lookahead_s=seconds(env, "LOOKAHEAD_S", 2.0, 0.1, 60),
            poll_interval_s=seconds(env, "POLL_INTERVAL_S", 0.8, 0.05, 30),
            retention_days=integer(env, "RETENTION_DAYS", 30, 0, 36_500),
            sweep_rate=integer(env, "SWEEP_RATE", 500, 10, 100_000),
            bar_url=url("BAR_URL", env.get("BAR_URL") or BAR_URL),
            wakeup=switch(env, "WAKEUP"),
            wakeup_address=_address("WAKEUP_ADDRESS", env.get("WAKEUP_ADDRESS", "")),
            wakeup_port=integer(env, "WAKEUP_PORT", 0, 0, 65_535),
        )._checked()

    @property
    def lookahead_ms(self) -> int:
        return round(self.lookahead_s * 1000)

    def _checked(self) -> Self:
        if self.lookahead_s <= self.poll_interval_s:
            raise InvalidSetting(
                f"LOOKAHEAD_S ({self.lookahead_s}) must be longer than "
                f"POLL_INTERVAL_S ({self.poll_interval_s})"
            )
        return self


def _endpoints(text: str) -> tuple[str, ...]:
    name = "ALTERNATOR_ENDPOINTS"
    urls = tuple(url(name, part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise InvalidSetting(f"{name} is empty; expected http://host:port, several by commas")
    parts = map(urlsplit, urls)
    if len({(part.scheme, part.port) for part in parts}) > 1:
        raise InvalidSetting(f"{name}={text!r}: all endpoints must share one scheme and port")
    return urls


def _address(name: str, text: str) -> str | None:
    """One that others can send to."""
    if not text:
        return None
    try:
        address = ipaddress.ip_address(text)
        is_usable = not (address.is_unspecified or address.is_multicast or address.is_link_local)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise refused(name, text, "an IP address at which others reach this machine")
    return str(address)


def _prefix(name: str, text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,100}", text):
        raise refused(name, text, "at most 100 of A-Z a-z 0-9 _ . -")
    return text
