"""Tells of each request what became of it."""

from collections.abc import Callable
from typing import Any

from chalicelib.errors import StoreBusy
from chalicelib.store.alternator.outcome import ConditionFailed, Unanswered, Unsent
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire.requester import Wire
from chalicelib.store.contract import Pressure

Observe = Callable[[str, str], None]
"""Takes the operation, such as PutItem, and the outcome: ok, refused (a condition did not hold),
held_back (not sent, since the store is slow), unsent (no connection), unanswered or failed."""


class Observed:
    """A Wire on another one."""

    def __init__(self, wire: Wire, observe: Observe) -> None:
        self._wire = wire
        self._observe = observe

    async def send(self, request: Request, **options: Any) -> JsonObject:
        """See Wire."""
        try:
            answer = await self._wire.send(request, **options)
        except Exception as error:
            self._observe(request.action, _outcome(error))
            raise
        self._observe(request.action, "ok")
        return answer

    def pressure(self) -> Pressure:
        return self._wire.pressure()

    async def close(self) -> None:
        await self._wire.close()


def _outcome(error: Exception) -> str:
    if isinstance(error, ConditionFailed):
        return "refused"
    if isinstance(error, StoreBusy):
        return "held_back"
    if isinstance(error, Unsent):
        return "unsent"
    return "unanswered" if isinstance(error, Unanswered) else "failed"
