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
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from urllib.parse import urlsplit

import msgspec

from chalicelib.config import Settings
from chalicelib.store.alternator.wire.connection import (
    Answer,
    Connection,
    GivenUp,
    Node,
    NotConnected,
)
from chalicelib.store.alternator.wire.limit import Limit
from chalicelib.store.alternator.wire.outstanding import Asked
from chalicelib.store.alternator.wire.signature import Signer
from chalicelib.store.clock import StoreClock
from chalicelib.store.contract import SLOW_DELAY_S

log = logging.getLogger(__name__)

REFRESH_S = 30.0
LOOK_TIMEOUT_S = 1.0
TIME_LOOKS = 8
"""So many looks tell what the clock of a node shows, or none do."""
TIME_LOOK_PAUSE_S = 0.1
TIME_KNOWN_PAUSE_S = 1.0
SILENT_S = 1.0
"""A node that left a request unanswered, and answered nothing else for so long, is passed over
until it answers a look."""

EXACT = b"Dynoxide"
"""The server that is known to write the Date of each answer anew: the embedded engine."""


class Peer:
    """A node, who signs what is sent to it, whether it answers, and how much it is asked."""

    def __init__(
        self,
        endpoint: str,
        settings: Settings,
        context: ssl.SSLContext | None,
        fallen: asyncio.Event,
        limit: Limit,
        clock: StoreClock,
        *,
        is_down: bool,
    ) -> None:
        """fallen: set when it stops to answer. clock: is told the time of each answer."""
        self.endpoint = endpoint
        self.address = urlsplit(endpoint).hostname or ""
        self.is_down = is_down
        self.limit = limit
        self._fallen = fallen
        self._clock = clock
        self._time = clock.node(endpoint)
        self._node = Node(endpoint, context)
        self._signer = Signer(self._node.host, settings.region, settings.user, settings.secret)
        self._loop = asyncio.get_running_loop()
        self._is_gone = False
        self._waited_for: dict[Asked, Connection] = {}

    async def ask(self, asked: Asked, action: str, body: bytes, now_s: int) -> Answer:
        """A signed request, once, for which `asked` is counted. Raises NotConnected: it was not
        sent; OSError: its outcome is unknown."""
        try:
            connection = await self._node.connect()
        except NotConnected as error:
            self.limit.failed(asked, self._loop.time())
            self._is_gone = True
            self._note(True, str(error))
            raise
        except BaseException:
            self.limit.unsent(asked)
            raise
        self._waited_for[asked] = connection
        try:
            answer = await self._exchange(connection, self._signer.message(action, body, now_s))
        except (asyncio.CancelledError, GivenUp):
            self.limit.given_up(asked, self._loop.time())
            connection.listen(partial(self._answered_late, asked))
            self._note_silence(asked, self._loop.time())
            raise
        except BaseException:
            self.limit.failed(asked, self._loop.time())
            connection.close()
            raise
        finally:
            del self._waited_for[asked]
        self._node.keep(connection)
        self._answered(asked, answer)
        return answer

    def give_up(self, asked: Asked, why: str) -> None:
        """Let whoever waits for this answer know that it is not worth waiting for."""
        if asked in self._waited_for:
            self._waited_for[asked].give_up(why)

    def _answered(self, asked: Asked, answer: Answer) -> None:
        now_s = self._loop.time()
        if answer.status >= 500:
            self.limit.failed(asked, now_s)
        else:
            self.limit.answered(asked, now_s)
        if self.is_down:
            self._note(False)

    def _answered_late(self, asked: Asked, answer: Answer | None) -> None:
        if answer is None:
            self.limit.unsent(asked)
        else:
            self._answered(asked, answer)

    def _note_silence(self, asked: Asked, now_s: float) -> None:
        """One answer can be lost; a node that has given no other since is silent."""
        last_s = max(asked.sent_s, self.limit.answered_s)
        if now_s - last_s >= SILENT_S:
            self._note(True, "no answer in time")

    async def look(self) -> Answer | None:
        """What it answers to `GET /localnodes`; None if it does not answer at all."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                answer = await self._localnodes()
        except OSError as error:
            self._note(True, repr(error))
            return None
        if self._is_gone:
            self._is_gone, self.limit.failures = False, 0
        self._note(False)
        return answer

    def look_in_s(self) -> float | None:
        """See NodeTime. What waited in a queue tells little, and would make the queue longer."""
        is_slow = self.limit.delay_s > SLOW_DELAY_S
        return None if self.is_down or is_slow else self._time.look_in_s()

    async def ask_the_time(self) -> None:
        """Whether it answers at all is for others to find out."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._localnodes()

    async def _localnodes(self) -> Answer:
        message = f"GET /localnodes HTTP/1.1\r\nHost: {self._node.host}\r\n\r\n"
        connection = await self._node.connect()
        try:
            answer = await self._exchange(connection, message.encode())
        except asyncio.CancelledError:
            connection.listen(lambda late: None)
            raise
        except BaseException:
            connection.close()
            raise
        self._node.keep(connection)
        return answer

    async def _exchange(self, connection: Connection, message: bytes) -> Answer:
        """Its answer tells the time, too."""
        sent_s = self._clock.monotonic_s()
        answer = await connection.ask(message)
        self._time.hear(answer.date, sent_s, is_exact=answer.server.startswith(EXACT))
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
    """Watches the nodes from own tasks until close()."""

    def __init__(
        self,
        settings: Settings,
        context: ssl.SSLContext | None,
        new_limit: Callable[[], Limit],
        clock: StoreClock,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """Call inside a running event loop. new_limit: for each node. refresh_s: between looks."""
        self._settings = settings
        self._context = context
        self._new_limit = new_limit
        self._clock = clock
        self._refresh_s = refresh_s
        self._fallen = asyncio.Event()
        endpoints = sorted({endpoint.rstrip("/") for endpoint in settings.endpoints})
        self._seeds: Sequence[Peer] = [self._peer(url, is_down=False) for url in endpoints]
        self._peers = self._seeds
        self._watching = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._ask_the_time()),
        ]

    def all(self) -> set[Peer]:
        return {*self._peers, *self._seeds}

    def up(self) -> Sequence[Peer]:
        """Those that answer; the seeds if none does."""
        for peers in (self._peers, self._seeds):
            if up := [peer for peer in peers if not peer.is_down]:
                return up
        return self._seeds

    def around(self, turn: int) -> Sequence[Peer]:
        """Those that answer: with each turn another one is first."""
        return _rotated(self.up(), turn)

    def for_key(self, key: str, attempt: int) -> Sequence[Peer]:
        """Those that answer, in the order in which writes of a key prefer them: the same for
        everybody. Each attempt begins with another one."""
        return _rotated(_planned(self.up(), key), attempt)

    async def close(self) -> None:
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for peer in self.all():
            await peer.close()

    async def _watch(self) -> None:
        """Look every so often, soon after a node fell, and more often as long as one is down."""
        while True:
            self._fallen.clear()
            try:
                await self._look()
            except Exception:
                log.exception("a look at the nodes went wrong", extra={"action": "nodes_error"})
            await asyncio.sleep(self._refresh_s / 30)
            are_all_up = not any(peer.is_down for peer in self.all())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s * (0.97 if are_all_up else 0.3)):
                    await self._fallen.wait()

    async def _ask_the_time(self) -> None:
        """Often until the clocks are known closely; then as often as it takes to know them."""
        looks = 0
        while True:
            try:
                has_looked = any(await asyncio.gather(*map(self._ask_in_time, self._peers)))
            except Exception:
                log.exception("a look at the time went wrong", extra={"action": "nodes_error"})
                has_looked = True
            looks = looks + 1 if has_looked else 0
            pause_s = TIME_LOOK_PAUSE_S if looks else TIME_KNOWN_PAUSE_S
            await asyncio.sleep(pause_s if looks < TIME_LOOKS else self._refresh_s)

    async def _ask_in_time(self, peer: Peer) -> bool:
        if (look_in_s := peer.look_in_s()) is None:
            return False
        await asyncio.sleep(look_in_s)
        await peer.ask_the_time()
        return True

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
        return Peer(
            endpoint,
            self._settings,
            self._context,
            self._fallen,
            self._new_limit(),
            self._clock,
            is_down=is_down,
        )

    def _endpoints(self, answer: Answer) -> Sequence[str]:
        """Sorted, from a JSON list of IP addresses; none from any other answer."""
        seed = urlsplit(self._settings.endpoints[0])
        port = f":{seed.port}" if seed.port else ""
        try:
            listed = msgspec.json.decode(answer.body)
            hosts = {ipaddress.ip_address(str(host)) for host in listed}
        except (TypeError, ValueError, RecursionError):
            return []
        names = (str(host) if host.version == 4 else f"[{host}]" for host in hosts)
        return sorted(f"{seed.scheme}://{name}{port}" for name in names)


def _planned(peers: Sequence[Peer], key: str) -> Sequence[Peer]:
    """In the order in which writes of a key try them: all that know the same nodes agree on it."""
    if len(peers) == 1:
        return peers
    return sorted(peers, key=lambda peer: blake2b(f"{peer.address}/{key}".encode()).digest())


def _rotated(peers: Sequence[Peer], turn: int) -> Sequence[Peer]:
    if len(peers) == 1:
        return peers
    start = turn % len(peers)
    return [*peers[start:], *peers[:start]]
