"""Calls side by side, but only so many at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Parallel:
    """Shared by all that run calls side by side. most: calls that run at once."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def map(self, function: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
        """The results, in order. Raises what the first failure raises; the other calls go on."""

        async def in_turn(item: T) -> R:
            async with self._places:
                return await function(item)

        return await asyncio.gather(*map(in_turn, items))
