"""Signed requests to the nodes of the store, asynchronous, one try a call."""

import asyncio
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Self

import orjson

from chalicelib.alternator import outcome, tls
from chalicelib.alternator.connection import Answer
from chalicelib.alternator.nodes import REFRESH_S, Nodes
from chalicelib.alternator.outcome import Unanswered
from chalicelib.alternator.requests import JsonObject, Request
from chalicelib.clock import Clock, ClockOffset
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable


class Transport:
    """Writes of one key prefer one node; others go around."""

    def __init__(self, nodes: Nodes, clock: Clock, requests_max: int) -> None:
        """requests_max: so many are under way at most; the others wait."""
        self.offset = ClockOffset()
        self._nodes = nodes
        self._clock = clock
        self._limit = asyncio.Semaphore(requests_max)
        self._turns = count()
        self._last_date = b""

    @classmethod
    def open(cls, settings: Settings, clock: Clock, refresh_s: float = REFRESH_S) -> Self:
        """Call inside a running event loop; close() ends it. refresh_s: see Nodes."""
        nodes = Nodes(settings, tls.context(settings), refresh_s)
        return cls(nodes, clock, 2 * settings.batch_size)

    async def close(self) -> None:
        await self._nodes.close()

    async def send(
        self, request: Request, *, key: str | None, attempt: int, timeout_s: float
    ) -> JsonObject:
        """Raises ConditionFailed, Unanswered, StoreMismatch or StoreUnavailable.

        key: partition key of a conditional write. attempt: each further one takes another node.
        """
        if key is None:
            peer = self._nodes.choose(next(self._turns))
        else:
            peer = self._nodes.choose_for(key, attempt)
        body = orjson.dumps(request.body)
        sent_ms = self._clock.now_ms()
        try:
            async with asyncio.timeout(timeout_s), self._limit:
                answer = await peer.ask(request.action, body, sent_ms // 1000)
        except TimeoutError as error:
            raise Unanswered(f"no answer within {timeout_s:.1f} s") from error
        except OSError as error:
            raise Unanswered(tls.distrust(error) or str(error)) from error
        if answer.date != self._last_date:
            self._note_date(answer.date, sent_ms)
        return _content(answer)

    def _note_date(self, date: bytes, sent_ms: int) -> None:
        self._last_date = date
        try:
            theirs_ms = int(parsedate_to_datetime(date.decode()).timestamp() * 1000)
        except ValueError:
            return
        self.offset.note(theirs_ms, 1000, sent_ms, self._clock.now_ms())


def _content(answer: Answer) -> JsonObject:
    try:
        content = orjson.loads(answer.body)
    except ValueError as error:
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
