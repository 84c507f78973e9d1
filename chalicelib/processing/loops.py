"""Runs the steps of a processor again and again, whatever goes wrong in one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from random import Random

from chalicelib.clock import Clock
from chalicelib.errors import StoreUnavailable
from chalicelib.throttle import Throttle

log = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


class Loops:
    """All loops of one processor: a store that is away is away for each, and told of once."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self._clock = clock
        self._rng = rng
        self._throttle = Throttle()

    def start(self, interval_s: float, step: Step) -> asyncio.Task[None]:
        return asyncio.create_task(self._repeat(interval_s, step))

    async def _repeat(self, interval_s: float, step: Step) -> None:
        """Passes begin so far apart at most, unless one takes longer; each processor at its own."""
        while True:
            next_s = self._clock.monotonic_s() + interval_s * self._rng.uniform(0.97, 1.0)
            await self.survive(step)
            left_s = next_s - self._clock.monotonic_s()
            await asyncio.sleep(max(interval_s / 10, left_s))

    async def survive(self, step: Step) -> None:
        """Whatever the step raises is logged; the next pass tries again."""
        try:
            await step()
        except StoreUnavailable as error:
            if self._throttle.admits(self._clock.monotonic_s()):
                log.warning("the store: %s", error, extra={"action": "store_unavailable"})
        except Exception:
            log.exception("a loop went wrong", extra={"action": "loop_error"})


async def see_through(steps: Iterable[Awaitable[None]]) -> None:
    """Await all of them side by side, then raise the first error."""
    for error in await asyncio.gather(*steps, return_exceptions=True):
        if error is not None:
            raise error
