"""Who may ask the store next, and which node: one line for all that has to wait.

The line is ordered by when a request came and how long it can be overtaken, so that what is urgent
goes first and nothing waits for ever. Whoever is first takes the first of the nodes it prefers that
has room: a node that is slow or dead holds nobody up as long as another one is not.
"""

import asyncio
import bisect
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import count
from math import inf
from typing import NamedTuple

from chalicelib.store.alternator.wire.connection import NotConnected
from chalicelib.store.alternator.wire.nodes import Nodes, Peer
from chalicelib.store.alternator.wire.outstanding import Asked, Kind
from chalicelib.store.contract import Pressure

LOOK_EVERY_S = 0.25
REDUCED_FOR_S = 5.0
"""Since the last time that less was asked: the store is slow for so long."""
RETRY_S = 0.02
"""Room can also come by time passing."""
GIVE_UP_AFTER_S = 2.0
"""An answer that has not come by then is lost if what was sent later is answered, or if its node
has been silent since and another one is not; else it is only late."""
LATE_MAX_S = 4.0
"""However late an answer is, after this the request may be sent again."""
TROUBLE_S = 0.1
"""A node is in trouble if it takes longer than twice as long as another, and this."""
CLAIM_WITHIN_S = 1.5
"""With a store that takes longer to answer nothing is claimed: half of what a start may wait."""
SETTLE_WITHIN_S = 3.0
"""No more is held than can be settled within this: what is left when a claim and a handler took
their time."""


Prefers = Callable[[], Sequence[Peer]]
"""The nodes to ask, the best one first."""


class Rank(Enum):
    """Kinds of requests, by the seconds for which each can be overtaken by what comes later."""

    SETTLE = -10.0
    HEARTBEAT = 0.0
    VIEW = 0.1
    CLAIM = 0.5
    LIST = 1.0
    READ = 3.0
    CLEAN = 4.0


CAN_WAIT = (Rank.READ, Rank.CLEAN)


class TooLong(Exception):
    """The line is too long. wait_s: for about how long."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the line is {wait_s:.1f} s long")
        self.wait_s = wait_s


class Turn(NamedTuple):
    """A place at a node."""

    peer: Peer
    asked: Asked


class Waiter(NamedTuple):
    """Somebody in the line."""

    order_s: float
    number: int
    turn: "asyncio.Future[Turn]"
    prefers: Prefers
    rank: Rank
    kind: Kind

    @property
    def can_wait(self) -> bool:
        return self.rank in CAN_WAIT


class Gate:
    """Call inside a running event loop; close() ends it.

    line_max_s: whoever would wait for longer is turned away at once; None: everybody waits.
    """

    def __init__(self, nodes: Nodes, line_max_s: float | None = None) -> None:
        self._nodes = nodes
        self._line_max_s = line_max_s
        self._line: list[Waiter] = []
        self._later: list[Waiter] = []
        self._numbers = count()
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._looking = asyncio.create_task(self._look_often())

    async def close(self) -> None:
        """Whoever waits is told NotConnected."""
        for waiter in (*self._line, *self._later):
            if not waiter.turn.done():
                waiter.turn.set_exception(NotConnected("this client was closed"))
        self._line, self._later = [], []
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        if self._retry is not None:
            self._retry.cancel()

    async def enter(self, rank: Rank, prefers: Prefers, *, kind: Kind) -> Turn:
        """Wait for a place; who has one asks its peer. Raises TooLong."""
        can_wait = rank in CAN_WAIT
        line = self._later if can_wait else self._line
        if not (self._line or line) and (turn := self._turn(rank, prefers, kind, can_wait)):
            return turn
        if self._line_max_s is not None and (wait_s := self.wait_s()) > self._line_max_s:
            raise TooLong(wait_s)
        future: asyncio.Future[Turn] = self._loop.create_future()
        order_s = self._loop.time() + rank.value
        bisect.insort(line, Waiter(order_s, next(self._numbers), future, prefers, rank, kind))
        self.admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                peer, asked = future.result()
                peer.limit.unsent(asked)
                self.admit()
            raise

    def admit(self) -> None:
        """Let in whom there is room for. Call it whenever a request has ended."""
        if not (self._line or self._later):
            return
        now_s = self._loop.time()
        while self._later and self._later[0].order_s <= now_s:
            bisect.insort(self._line, self._later.pop(0))
        self._line = self._left_of(self._line)
        if not self._line:
            self._later = self._left_of(self._later)
        if (self._line or self._later) and self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._admit_again)

    def _left_of(self, line: list[Waiter]) -> list[Waiter]:
        """Let in whom there is room for; the others. With one node, nobody passes by another."""
        left: list[Waiter] = []
        has_choice, now_s = len(self._nodes.up()) > 1, self._loop.time()
        for place, waiter in enumerate(line):
            if waiter.turn.done():
                continue
            can_wait = waiter.can_wait and waiter.order_s > now_s
            turn = self._turn(waiter.rank, waiter.prefers, waiter.kind, can_wait)
            if turn is not None:
                waiter.turn.set_result(turn)
            elif has_choice and not waiter.can_wait:
                left.append(waiter)
            else:
                return left + line[place:]
        return left

    def wait_s(self) -> float:
        """About how long the line is: for whoever joins it, until the answer."""
        now_s = self._loop.time()
        working = [peer.limit for peer in self._nodes.up() if not peer.limit.is_failing]
        ahead = sum(not waiter.turn.done() for waiter in self._line)
        if not working:
            return float(ahead)
        rate = sum(limit.size / max(0.001, limit.latency_s) for limit in working)
        return min(limit.waited_s(now_s) for limit in working) + ahead / rate

    def may_claim(self, claiming: int, held: int) -> bool:
        """See TaskQueue: whether one more claim would be answered in time, and can be settled."""
        now_s, places, rate, answer_s = self._loop.time(), 0.0, 0.0, inf
        for peer in self._nodes.up():
            if not peer.limit.is_failing:
                waited_s = peer.limit.waited_s(now_s)
                places += peer.limit.size
                rate += peer.limit.size / max(0.001, peer.limit.latency_s)
                answer_s = min(answer_s, waited_s)
        if answer_s > CLAIM_WITHIN_S:
            return False
        return claiming < max(1.0, places) and claiming + held < max(1.0, rate * SETTLE_WITHIN_S)

    def pressure(self) -> Pressure:
        now_s = self._loop.time()
        limits = [peer.limit for peer in self._nodes.up()]
        working = [limit for limit in limits if not limit.is_failing] or limits
        return Pressure(
            requests=sum(limit.size for limit in working),
            latency_s=min(limit.waited_s(now_s) for limit in working),
            delay_s=sum(limit.delay_s for limit in working) / len(working),
            is_reduced=now_s - max(limit.reduced_s for limit in working) < REDUCED_FOR_S,
            is_failing=working[0].is_failing,
        )

    def _turn(self, rank: Rank, prefers: Prefers, kind: Kind, can_wait: bool) -> Turn | None:
        """A place at the first node that has room. can_wait: it still may."""
        now_s, is_urgent = self._loop.time(), rank is Rank.SETTLE
        for peer in self._open_to(prefers(), kind is Kind.CONDITIONAL, now_s):
            if peer.limit.has_room(now_s, is_urgent=is_urgent, can_wait=can_wait):
                return Turn(peer, peer.limit.ask(kind, now_s, can_wait=can_wait))
        return None

    def _open_to(self, peers: Sequence[Peer], is_conditional: bool, now_s: float) -> Sequence[Peer]:
        """A conditional write keeps to the node that it prefers, unless that is in trouble."""
        if not is_conditional or len(peers) == 1:
            return peers
        if self._is_in_trouble(peers[0], peers, now_s):
            return [*peers[1:], peers[0]]
        return peers[:1]

    def _is_in_trouble(self, peer: Peer, peers: Sequence[Peer], now_s: float) -> bool:
        least_s = min(one.limit.waited_s(now_s) for one in peers)
        return peer.limit.is_failing or peer.limit.waited_s(now_s) > 2 * least_s + TROUBLE_S

    def _admit_again(self) -> None:
        self._retry = None
        self.admit()

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look()

    def _look(self) -> None:
        """Let nobody wait for what was lost."""
        now_s = self._loop.time()
        for peer in self._nodes.all():
            for asked in peer.limit.waiting(now_s - GIVE_UP_AFTER_S):
                if self._is_lost(peer, asked, now_s):
                    peer.give_up(asked, f"no answer within {now_s - asked.sent_s:.1f} s")
            peer.limit.look(now_s)
        self.admit()

    def _is_lost(self, peer: Peer, asked: Asked, now_s: float) -> bool:
        if peer.limit.is_overtaken(asked) or now_s - asked.sent_s >= LATE_MAX_S:
            return True
        is_silent = peer.limit.answered_s < asked.sent_s
        return is_silent and any(
            self._is_in_trouble(peer, (peer, other), now_s)
            for other in self._nodes.up()
            if other is not peer and not other.limit.is_failing
        )
