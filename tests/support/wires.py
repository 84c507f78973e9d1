"""Other wires than the service's own, to put below its requester."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore import xform_name
from botocore.exceptions import ClientError

from chalicelib.store.alternator import outcome
from chalicelib.store.alternator.outcome import Unanswered
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire.requester import Wire
from chalicelib.store.contract import NO_PRESSURE, Pressure
from tests.support import profile

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class BotoWire:
    """A boto3 client, such as moto's, as a wire. Every request is checked against the profile."""

    def __init__(self, client: "DynamoDBClient") -> None:
        self._client = client

    async def send(self, request: Request, **how: Any) -> JsonObject:
        profile.check(request.action, request.body)
        try:
            answer: Any = getattr(self._client, xform_name(request.action))(**request.body)
        except ClientError as error:
            response: Any = error.response
            raise outcome.failure(
                response["Error"]["Code"],
                response["Error"].get("Message", ""),
                response["ResponseMetadata"]["HTTPStatusCode"],
                response.get("Item"),
            ) from error
        return dict(answer)

    def pressure(self) -> Pressure:
        return NO_PRESSURE

    async def close(self) -> None:
        self._client.close()


class FaultyWire:
    """A wire whose next requests go wrong: before or after they were applied.

    before: what happens just before the next request of an action, in a thread: it may block.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.faults: list[tuple[str, str, Exception]] = []
        self.sent: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}

    def lose(self, action: str, when: str = "after", error: Exception | None = None) -> None:
        self.faults.append((action, when, error or Unanswered("lost")))

    async def send(self, request: Request, **how: Any) -> JsonObject:
        self.sent.append(request.action)
        if request.action in self.before:
            await asyncio.to_thread(self.before.pop(request.action))
        fault = next((fault for fault in self.faults if fault[0] == request.action), None)
        if fault is None:
            return await self._wire.send(request, **how)
        self.faults.remove(fault)
        if fault[1] == "after":
            await self._wire.send(request, **how)
        raise fault[2]

    def pressure(self) -> Pressure:
        return self._wire.pressure()

    async def close(self) -> None:
        await self._wire.close()

    @contextmanager
    def meanwhile(self) -> Iterator[list[str]]:
        """The actions that are sent inside the block."""
        before = len(self.sent)
        sent: list[str] = []
        yield sent
        sent += self.sent[before:]
