"""Where a process takes wake-up messages: an IP address and a UDP port, as one text."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

FIND_WITHIN_S = 2.0


def shown(host: str, port: int) -> str:
    """As `10.0.0.7:7700` or `[fd00::7]:7700`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=1_000)
def parsed(text: str) -> tuple[str, int] | None:
    """The address and the port of such a text; None for any other text."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65_536
    return (str(address), int(port)) if is_port else None


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def toward(endpoints: Iterable[str]) -> str:
    """The address of this machine from which the first of these URLs is reached.

    Nothing is sent for it. Raises OSError if there is none that others could use.
    """
    why: OSError = OSError("no endpoint")
    for url in map(urlsplit, endpoints):
        try:
            async with asyncio.timeout(FIND_WITHIN_S):
                return await _toward(url.hostname or "", url.port or 80)
        except OSError as error:
            why = error
    raise why


async def _toward(host: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    for kind, type, protocol, _, to in await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(kind, type, protocol) as probe:
            try:
                probe.connect(to)
            except OSError:
                continue
            address: str = probe.getsockname()[0]
        if not ipaddress.ip_address(address).is_link_local:
            return address
    raise OSError(f"no address of this machine leads to {host}")
