"""Whether the store can be used: its tables fit, it answers, it takes writes."""

import contextlib
import math
import threading
import uuid

from chalicelib.clock import Clock
from chalicelib.errors import StoreReadOnly, StoreUnavailable, TaskNotFound
from chalicelib.store.contract import Pressure, TaskStore

WRITE_CHECK_EVERY_S = 5.0
NO_TASK_ID = str(uuid.UUID(int=0))


class Readiness:
    """Checks a store. Safe for many threads; tries a write at most every 5 s."""

    def __init__(self, store: TaskStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._is_verified = False
        self._lock = threading.Lock()
        self._next_write_check_s = -math.inf
        self._read_only_reason: str | None = None

    def verify_once(self) -> None:
        """Raise StoreMismatch unless the tables have been found to fit."""
        if not self._is_verified:
            self._store.check()
            self._is_verified = True

    def check(self) -> Pressure:
        """How the store bears its load. Raises what makes it unfit for use."""
        self._store.check()
        with contextlib.suppress(TaskNotFound):
            self._store.get(NO_TASK_ID)
        self._check_writes()
        return self._store.pressure()

    def takes_writes(self) -> bool:
        """False if the store is known to take none."""
        try:
            self._check_writes()
        except StoreUnavailable as error:
            return not isinstance(error, StoreReadOnly)
        return True

    def _check_writes(self) -> None:
        """Raise StoreReadOnly unless the store took the last write that was tried."""
        with self._lock:
            if self._clock.monotonic_s() >= self._next_write_check_s:
                self._read_only_reason = None
                try:
                    self._store.check_writes()
                except StoreReadOnly as error:
                    self._read_only_reason = str(error)
                self._next_write_check_s = self._clock.monotonic_s() + WRITE_CHECK_EVERY_S
            if self._read_only_reason is not None:
                raise StoreReadOnly(self._read_only_reason)
