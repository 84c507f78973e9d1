"""The nodes of a cluster, as each of them tells over HTTP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from chalicelib.clock import Clock, Sleep
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable
from chalicelib.store.clock import NodeTime

TIMEOUT_S = 3.0
LOOK_EVERY_S = 2.0
READINGS = 5


@dataclass(frozen=True, slots=True)
class Nodes:
    """Asks nodes, without a signature: none is needed for what is asked here."""

    settings: Settings
    clock: Clock

    def listed_by(self) -> Mapping[str, Sequence[str] | None]:
        """For each node that is known: the nodes it lists. None: it does not answer.

        Known are the endpoints of the settings, and what they list.
        """
        seen: dict[str, Sequence[str] | None] = {}
        waiting = [urlsplit(url).hostname or "" for url in self.settings.endpoints]
        while waiting:
            node = waiting.pop(0)
            if node in seen:
                continue
            seen[node] = self._list(node)
            waiting += seen[node] or []
        return seen

    def wait_for(self, count: int, wait_s: float, sleep: Sleep, say: Callable[[str], None]) -> None:
        """Return once `count` nodes each list all. Raises StoreUnavailable with what was seen."""
        until_s = self.clock.monotonic_s() + wait_s
        last = ""
        while True:
            listed = self.listed_by()
            if is_whole(listed, count):
                return
            text = described(listed)
            if self.clock.monotonic_s() >= until_s:
                raise StoreUnavailable(
                    f"not all of {count} nodes know each other after {wait_s:g} s: {text}"
                )
            if text != last:
                say(f"waiting for {count} nodes: {text}")
                last = text
            sleep(LOOK_EVERY_S)

    def clock_offset_ms(self, node: str) -> int | None:
        """The least by which this node's clock is ahead of ours; None if it does not answer."""
        time = NodeTime(self.clock, noted=lambda: None)
        for _ in range(READINGS):
            sent_s = self.clock.monotonic_s()
            answer = self._get(node, "/")
            if answer is None or "Date" not in answer.headers:
                return None
            time.hear(answer.headers["Date"].encode(), sent_s, is_exact=False)
        return time.ahead_ms()

    def _list(self, node: str) -> Sequence[str] | None:
        answer = self._get(node, "/localnodes")
        try:
            found: Any = answer.json() if answer is not None and answer.ok else None
        except ValueError:
            return None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            return None
        return sorted(found)

    def _get(self, node: str, path: str) -> requests.Response | None:
        seed = urlsplit(self.settings.endpoints[0])
        port = seed.port or (443 if seed.scheme == "https" else 80)
        name = f"[{node}]" if ":" in node else node
        try:
            with requests.Session() as session:
                # No proxy is asked: the nodes are near.
                session.trust_env = False
                return session.get(
                    f"{seed.scheme}://{name}:{port}{path}",
                    timeout=TIMEOUT_S,
                    verify=self.settings.ca_file or True,
                )
        except requests.RequestException:
            return None


def is_whole(listed_by: Mapping[str, Sequence[str] | None], count: int) -> bool:
    """Whether there are so many nodes, and each lists all of them."""
    everybody = sorted({address for listed in listed_by.values() for address in listed or []})
    whole = all(listed == everybody for listed in listed_by.values())
    return whole and len(everybody) == count


def described(listed_by: Mapping[str, Sequence[str] | None]) -> str:
    parts = [
        f"{node} does not answer" if listed is None else f"{node} lists {', '.join(listed) or '-'}"
        for node, listed in sorted(listed_by.items())
    ]
    return "; ".join(parts)
