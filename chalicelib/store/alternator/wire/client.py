"""Requests to the store for those that block: views, start-up and tools.

Calls run in one event loop, in a thread that all callers share.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from threading import Thread
from typing import Any, Self, TypeVar

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.store import cost
from chalicelib.store.alternator.requests import Item, JsonObject, Request
from chalicelib.store.alternator.wire.requester import Requester
from chalicelib.store.alternator.wire.transport import VIEWS, Transport
from chalicelib.store.contract import Pressure

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, until close(). Safe for many threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="store", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises. Whoever is interrupted cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Calls that still run are cancelled."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class Client:
    """A requester that blocks. Safe for many threads.

    requester: of the event loop of `thread`; `run` it there.
    """

    def __init__(self, thread: LoopThread, requester: Requester) -> None:
        self.requester = requester
        self._thread = thread

    @classmethod
    def connect(cls, settings: Settings, clock: Clock, **options: Any) -> Self:
        """For these nodes; close() ends it. options: see Requester.

        Raises InvalidSetting for an ALTERNATOR_CA_FILE that cannot be used.
        """

        async def opened() -> Transport:
            return Transport.open(settings, clock, sharing=VIEWS)

        thread = LoopThread()
        try:
            transport = thread.run(opened())
        except BaseException:
            thread.close()
            raise
        return cls(thread, Requester(transport, clock, **options))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See LoopThread."""
        with cost.waiting(self.requester.clock):
            return self._thread.run(coroutine)

    def close(self) -> None:
        self.run(self.requester.close())
        self._thread.close()

    def pressure(self) -> Pressure:
        """See TaskStore."""

        async def seen() -> Pressure:
            return self.requester.pressure()

        return self.run(seen())

    def decide(
        self, request: Request, *, key: str | None = None, deadline_s: float | None = None
    ) -> JsonObject:
        """See Requester."""
        return self.run(self.requester.decide(request, key=key, deadline_s=deadline_s))

    def items(self, request: Request) -> Iterator[Item]:
        """See Requester; pages are fetched as they are read."""
        following: Request | None = request
        while following is not None:
            items, following, _ = self.run(self.requester.page(following))
            yield from items

    def get_items(self, table: str, keys: Sequence[Item]) -> Sequence[Item]:
        """See Requester."""
        return self.run(self.requester.get_items(table, keys))
