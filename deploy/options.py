"""What the commands are told: by the service's own environment, and by options."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from chalicelib.config import Settings
from chalicelib.env import secret_line
from chalicelib.errors import InvalidSetting
from deploy import plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """settings: the service's; its user and secret must be allowed to create tables.

    nodes: how many there must be. wait_s: how long to wait for them. cql_*: the way in by CQL, as
    a role that may alter tables and make roles. role: the service's own, None to make none.
    secret_file: where to write its secret, alone.
    """

    settings: Settings
    nodes: int = 3
    wait_s: float = 180.0
    cql_hosts: tuple[str, ...]
    cql_port: int = 9042
    cql_user: str = ""
    cql_password: str = field(default="", repr=False)
    cql_tls: bool = False
    role: str | None = "scheduler"
    secret_file: Path | None = None

    @property
    def ca_file(self) -> str | None:
        return self.settings.ca_file

    @property
    def prefix(self) -> str:
        return self.settings.table_prefix

    @classmethod
    def of(cls, given: argparse.Namespace, env: Mapping[str, str] | None = None) -> Self:
        """Raises InvalidSetting naming what cannot be used."""
        env = os.environ if env is None else env
        settings = Settings.from_env(env)
        hosts = tuple(host.strip() for host in (given.cql_hosts or "").split(",") if host.strip())
        if given.secret_file is not None and given.role == "":
            raise InvalidSetting("--secret-file: there is no role to write about (--role '')")
        return cls(
            settings=settings,
            nodes=given.nodes,
            wait_s=given.wait,
            cql_hosts=hosts or tuple(urlsplit(url).hostname or "" for url in settings.endpoints),
            cql_port=given.cql_port,
            cql_user=env.get("CQL_USER", ""),
            cql_password=secret_line(env, "CQL_PASSWORD") or "",
            cql_tls=given.cql_tls,
            role=plan.checked_role(given.role) if given.role else None,
            secret_file=given.secret_file,
        )


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=_count, default=3, metavar="N", help="how many there are")
    parser.add_argument(
        "--wait", type=_seconds, default=180.0, metavar="S", help="wait so long for all nodes"
    )
    parser.add_argument(
        "--cql-hosts", metavar="A,B", help="where CQL is; default: the hosts of the endpoints"
    )
    parser.add_argument("--cql-port", type=_port, default=9042, metavar="N")
    parser.add_argument("--cql-tls", action="store_true", help="with ALTERNATOR_CA_FILE, if set")
    parser.add_argument(
        "--role", default="scheduler", metavar="NAME", help="the service's own; '' for none"
    )
    parser.set_defaults(secret_file=None)


def _count(text: str) -> int:
    return _whole(text, 1, 1000)


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r}: expected an integer from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds from 0 to 3600")
    return value
