"""Signed requests to the nodes of the store, asynchronous, one try a call."""

import asyncio
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from typing import Any, Self

import msgspec

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.store.alternator import outcome
from chalicelib.store.alternator.outcome import Throttled, Unanswered, Unsent
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire import tls
from chalicelib.store.alternator.wire.connection import Answer, NotConnected
from chalicelib.store.alternator.wire.gate import Gate, Prefers, Rank, TooLong, Turn
from chalicelib.store.alternator.wire.limit import Limit
from chalicelib.store.alternator.wire.nodes import REFRESH_S, Nodes, Peer
from chalicelib.store.alternator.wire.outstanding import Kind
from chalicelib.store.clock import StoreClock
from chalicelib.store.contract import Pressure


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """How a process shares the store with others.

    slack_s: how long its requests may wait in a queue at the store. start: how many are sent at
    once before more is known. line_max_s: whoever would wait for longer here is turned away at
    once; None: everybody waits as long as it has time.
    """

    slack_s: float
    start: int
    line_max_s: float | None


PROCESSOR = Sharing(slack_s=0.1, start=3, line_max_s=None)
VIEWS = Sharing(slack_s=0.25, start=16, line_max_s=2.0)
"""Somebody waits for the answer: views may go before processors, up to a point."""


class Transport:
    """Writes of one key prefer one node; others go around. Call it in one running event loop."""

    def __init__(self, nodes: Nodes, gate: Gate, clock: Clock) -> None:
        self._nodes = nodes
        self._gate = gate
        self._clock = clock
        self._budget = Budget(clock)
        self._turns = count()
        self._loop = asyncio.get_running_loop()

    @classmethod
    def open(
        cls,
        settings: Settings,
        clock: Clock,
        refresh_s: float = REFRESH_S,
        sharing: Sharing = PROCESSOR,
        rng: Random | None = None,
    ) -> Self:
        """Call inside a running event loop; close() ends it. clock: a StoreClock learns the time
        here. refresh_s: see Nodes. rng: spreads the probes of a node that fails."""
        clock, rng = StoreClock.over(clock), rng or Random()
        new_limit = partial(Limit, sharing.slack_s, sharing.start, 2 * settings.batch_size, rng)
        nodes = Nodes(settings, tls.context(settings), new_limit, clock, refresh_s)
        return cls(nodes, Gate(nodes, sharing.line_max_s), clock)

    async def close(self) -> None:
        await self._gate.close()
        await self._nodes.close()

    async def send(
        self,
        request: Request,
        *,
        key: str | None,
        attempt: int,
        timeout_s: float,
        rank: Rank = Rank.READ,
        is_repeated: bool = False,
    ) -> JsonObject:
        """Raises ConditionFailed, Unanswered, Unsent, StoreMismatch, StoreBusy or StoreUnavailable.

        key: partition key of a conditional write. attempt: each further one takes another node.
        is_repeated: it was sent before. timeout_s: what it waits for its turn is part of it.
        """
        if is_repeated and not self._budget.take():
            raise Unsent("too much was sent again")
        prefers = self._preferred(key, attempt)
        peer, answer = await self._answer(request, prefers, _kind(request, key), rank, timeout_s)
        if answer.status < 500:
            self._budget.earn()
        try:
            return _content(answer)
        except Throttled:
            peer.limit.refused(self._loop.time())
            raise

    async def _answer(
        self, request: Request, prefers: Prefers, kind: Kind, rank: Rank, timeout_s: float
    ) -> tuple[Peer, Answer]:
        """Wait for a turn, and then for the answer of whoever is asked."""
        body = msgspec.json.encode(request.body)
        turn: Turn | None = None
        try:
            async with asyncio.timeout(timeout_s) as patience:
                turn = await self._gate.enter(rank, prefers, kind=kind)
                peer, asked = turn
                if rank is Rank.CLAIM and self._comes_too_late(peer, patience.when()):
                    peer.limit.unsent(asked)
                    raise StoreBusy("the answer to a claim would come too late")
                now_s = self._clock.now_ms() // 1000
                return peer, await peer.ask(asked, request.action, body, now_s)
        except TooLong as error:
            text = f"the store is slower than what is asked of it: {error}"
            raise StoreBusy(text, wait_s=error.wait_s) from error
        except TimeoutError as error:
            became = Unsent if turn is None else Unanswered
            raise became(f"no answer within {timeout_s:.1f} s") from error
        except OSError as error:
            became = Unsent if isinstance(error, NotConnected) else Unanswered
            raise became(tls.distrust(error) or str(error)) from error
        finally:
            self._gate.admit()

    def may_claim(self, claiming: int, held: int) -> bool:
        """See TaskQueue."""
        return self._gate.may_claim(claiming, held)

    def pressure(self) -> Pressure:
        """How the store bears what it is asked."""
        return self._gate.pressure()

    def _preferred(self, key: str | None, attempt: int) -> Prefers:
        if key is None:
            return partial(self._nodes.around, next(self._turns))
        return partial(self._nodes.for_key, key, attempt)

    def _comes_too_late(self, peer: Peer, until_s: float | None) -> bool:
        return until_s is not None and until_s < self._loop.time() + peer.limit.latency_s


class Budget:
    """What may be sent again: a share of what succeeds, and a little as time passes."""

    SHARE = 0.5
    A_SECOND = 1.0
    MOST = 50.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = self.MOST
        self._seen_s = clock.monotonic_s()

    def earn(self) -> None:
        self._left = min(self.MOST, self._left + self.SHARE)

    def take(self) -> bool:
        now_s = self._clock.monotonic_s()
        self._left = min(self.MOST, self._left + (now_s - self._seen_s) * self.A_SECOND)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _kind(request: Request, key: str | None) -> Kind:
    if key is not None:
        return Kind.CONDITIONAL
    return Kind.SCAN if request.action == "Scan" else Kind.PLAIN


def _content(answer: Answer) -> JsonObject:
    try:
        content = msgspec.json.decode(answer.body)
    except (ValueError, RecursionError) as error:
        if answer.status == 200:
            raise Unanswered(f"an answer that is no JSON: {error}") from error
        content = {"message": answer.body[:200].decode(errors="replace")}
    if answer.status == 200 and isinstance(content, dict):
        return content
    raise _failure(content, answer.status)


def _failure(content: Any, status: int) -> Exception:
    if not isinstance(content, dict):
        return StoreUnavailable(f"the store answered {status} with {content!r}")
    code = str(content.get("__type", "")).split("#")[-1]
    message = str(content.get("message") or content.get("Message") or "")
    return outcome.failure(code, message, status, content.get("Item"))
