"""The nodes of the store: which there are, which of them answer, and who gets a request.

`GET /localnodes` of any node lists the addresses of all; the configured endpoints are the seeds
that are asked first. A node that was learnt is used once it has answered itself. The seeds stand in
where there is no list, and whenever no node of the list answers.
"""

import asyncio
import contextlib
import ipaddress
import logging
import ssl
from collections.abc import Sequence
from hashlib import blake2b
from urllib.parse import urlsplit

import orjson

from chalicelib.alternator.connection import Answer, Node, NotConnected
from chalicelib.alternator.signature import Signer
from chalicelib.config import Settings

log = logging.getLogger(__name__)

REFRESH_S = 10.0
LOOK_TIMEOUT_S = 1.0
SILENT_S = 1.0
"""A node that left a request unanswered for this long is passed over until it answers a look."""


class Peer:
    """A node, who signs what is sent to it, and whether it answers."""

    def __init__(
        self,
        endpoint: str,
        settings: Settings,
        context: ssl.SSLContext | None,
        fallen: asyncio.Event,
        *,
        is_down: bool,
    ) -> None:
        """fallen: set when it stops to answer."""
        self.endpoint = endpoint
        self.address = urlsplit(endpoint).hostname or ""
        self.is_down = is_down
        self._fallen = fallen
        self._node = Node(endpoint, context)
        self._signer = Signer(self._node.host, settings.region, settings.user, settings.secret)

    async def ask(self, action: str, body: bytes, now_s: int) -> Answer:
        """A signed request, once. Raises OSError: its outcome is unknown."""
        started_s = asyncio.get_running_loop().time()
        try:
            answer = await self._node.ask(self._signer.message(action, body, now_s))
        except NotConnected as error:
            self._note(True, str(error))
            raise
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() - started_s >= SILENT_S:
                self._note(True, "no answer in time")
            raise
        if self.is_down:
            self._note(False)
        return answer

    async def look(self) -> Answer | None:
        """What it answers to `GET /localnodes`; None if it does not answer at all."""
        message = f"GET /localnodes HTTP/1.1\r\nHost: {self._node.host}\r\n\r\n"
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                answer = await self._node.ask(message.encode())
        except OSError as error:
            self._note(True, repr(error))
            return None
        self._note(False)
        return answer

    async def close(self) -> None:
        await self._node.close()

    def _note(self, is_down: bool, why: str = "") -> None:
        if is_down == self.is_down:
            return
        self.is_down = is_down
        if is_down:
            self._fallen.set()
            extra = {"action": "node_down", "node": self.endpoint}
            log.warning("node %s does not answer: %s", self.endpoint, why, extra=extra)
        else:
            extra = {"action": "node_up", "node": self.endpoint}
            log.info("node %s answers", self.endpoint, extra=extra)


class Nodes:
    """Watches the nodes from an own task until close()."""

    def __init__(
        self, settings: Settings, context: ssl.SSLContext | None, refresh_s: float = REFRESH_S
    ) -> None:
        """Call inside a running event loop. refresh_s: between two looks."""
        self._settings = settings
        self._context = context
        self._refresh_s = refresh_s
        self._fallen = asyncio.Event()
        endpoints = sorted({endpoint.rstrip("/") for endpoint in settings.endpoints})
        self._seeds: Sequence[Peer] = [self._peer(url, is_down=False) for url in endpoints]
        self._peers = self._seeds
        self._watching = asyncio.create_task(self._watch())

    def choose(self, turn: int) -> Peer:
        """A node that answers: with each turn the next."""
        for peers in (self._peers, self._seeds):
            if up := [peer for peer in _rotated(peers, turn) if not peer.is_down]:
                return up[0]
        return _rotated(self._seeds, turn)[0]

    def choose_for(self, key: str, attempt: int) -> Peer:
        """The node for writes of a key: the same one for as long as it answers, whoever writes.
        Each attempt takes another."""
        for peers in (self._peers, self._seeds):
            if up := [peer for peer in _planned(peers, key) if not peer.is_down]:
                return up[attempt % len(up)]
        return _planned(self._seeds, key)[attempt % len(self._seeds)]

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        for peer in {*self._peers, *self._seeds}:
            await peer.close()

    async def _watch(self) -> None:
        """Look every so often, and soon after a node fell."""
        while True:
            self._fallen.clear()
            try:
                await self._look()
            except Exception:
                log.exception("a look at the nodes went wrong", extra={"action": "nodes_error"})
            await asyncio.sleep(self._refresh_s / 10)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s * 0.9):
                    await self._fallen.wait()

    async def _look(self) -> None:
        """Ask one node after the other until one answers; see whether those that fell are back."""
        known = sorted(self._peers, key=lambda peer: peer.is_down)
        for peer in (*known, *(seed for seed in self._seeds if seed not in known)):
            if (answer := await peer.look()) is None:
                continue
            if listed := self._endpoints(answer):
                await self._use(listed)
            elif peer not in self._peers:
                await self._use([seed.endpoint for seed in self._seeds])
            await asyncio.gather(*(peer.look() for peer in self._peers if peer.is_down))
            return

    async def _use(self, endpoints: Sequence[str]) -> None:
        known = {peer.endpoint: peer for peer in (*self._peers, *self._seeds)}
        before = self._peers
        self._peers = [known.get(url) or self._peer(url, is_down=True) for url in endpoints]
        if self._peers == before:
            return
        log.info("nodes: %s", ", ".join(endpoints), extra={"action": "nodes", "nodes": endpoints})
        for peer in before:
            if peer not in self._peers and peer not in self._seeds:
                await peer.close()

    def _peer(self, endpoint: str, *, is_down: bool) -> Peer:
        return Peer(endpoint, self._settings, self._context, self._fallen, is_down=is_down)

    def _endpoints(self, answer: Answer) -> Sequence[str]:
        """Sorted, from a JSON list of IP addresses; none from any other answer."""
        seed = urlsplit(self._settings.endpoints[0])
        port = f":{seed.port}" if seed.port else ""
        try:
            listed = orjson.loads(answer.body)
            hosts = {ipaddress.ip_address(str(host)) for host in listed}
        except (TypeError, ValueError):
            return []
        names = (str(host) if host.version == 4 else f"[{host}]" for host in hosts)
        return sorted(f"{seed.scheme}://{name}{port}" for name in names)


def _planned(peers: Sequence[Peer], key: str) -> Sequence[Peer]:
    """In the order in which writes of a key try them: all that know the same nodes agree on it."""
    if len(peers) == 1:
        return peers
    return sorted(peers, key=lambda peer: blake2b(f"{peer.address}/{key}".encode()).digest())


def _rotated(peers: Sequence[Peer], turn: int) -> Sequence[Peer]:
    start = turn % len(peers)
    return [*peers[start:], *peers[:start]]
