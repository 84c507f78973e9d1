"""How many tasks a caller may create a minute, through this process."""

import math
import threading
from http import HTTPStatus

from chalicelib.api.responses import HttpError
from chalicelib.clock import Clock

WINDOW_S = 60


class CreateLimit:
    """Counts what each caller created within the last 60 s. Safe for many threads.

    per_minute: 0 for any number. A batch is let in as a whole, if anything is left: so it may go
    beyond the limit once, and what is beyond it is waited for.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._created: dict[str | None, dict[int, int]] = {}

    def take(self, caller: str | None, tasks: int) -> int:
        """Count tasks that are about to be created. Returns when, for `put_back`.

        Raises HttpError 429 if nothing is left.
        """
        now_s = math.floor(self._clock.monotonic_s())
        if not self._per_minute or not tasks:
            return now_s
        with self._lock:
            created = self._created.setdefault(caller, {})
            for at_s in [at_s for at_s in created if at_s <= now_s - WINDOW_S]:
                del created[at_s]
            if (wait_s := self._wait_s(created, now_s)) > 0:
                raise self._too_many(wait_s)
            created[now_s] = created.get(now_s, 0) + tasks
        return now_s

    def put_back(self, caller: str | None, tasks: int, taken_s: int) -> None:
        """So many of those that were taken then have not been created."""
        with self._lock:
            created = self._created.get(caller, {})
            if taken_s in created:
                created[taken_s] -= tasks

    def _wait_s(self, created: dict[int, int], now_s: int) -> int:
        """Until fewer than the limit were created within the last minute; 0 if that is so now."""
        left, wait_s = sum(created.values()), 0
        for at_s in sorted(created):
            if left < self._per_minute:
                break
            left -= created[at_s]
            wait_s = at_s + WINDOW_S - now_s
        return wait_s

    def _too_many(self, wait_s: int) -> HttpError:
        return HttpError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "So many tasks may not be created in a minute. Nothing was changed; try again later.",
            details={
                "expected": f"at most {self._per_minute} tasks a minute",
                "retry_after_s": wait_s,
            },
            headers={"Retry-After": str(wait_s)},
        )
