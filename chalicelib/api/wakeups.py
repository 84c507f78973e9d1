"""Tells processors of tasks that come due soon, so that these do not wait for a poll."""

import contextlib
from collections.abc import Iterable, Sequence
from threading import Lock, Thread
from typing import TypeGuard

from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError
from chalicelib.store import ownership
from chalicelib.store.contract import Heartbeat, Hint, TaskStore
from chalicelib.task import Task, TaskState, shard_of
from chalicelib.wakeups.sender import Sender

CACHE_S = 2.0
"""The fleet is looked at again after this, beside the next write."""
WAITING_MAX = 1_000


class WakeUps:
    """Safe for many threads; it delays and fails nothing. sender: None: it does nothing."""

    def __init__(
        self, store: TaskStore, sender: Sender | None, clock: Clock, settings: Settings
    ) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock
        self._shards = settings.shards
        self._lookahead_ms = settings.lookahead_ms
        self._lock = Lock()
        self._fleet: Sequence[Heartbeat] = ()
        self._looked_s: float | None = None
        self._is_looking = False
        self._waiting: list[Hint] = []

    def prepare(self, due_at_ms: Iterable[int | None]) -> None:
        """Before tasks are written that are due at these times: look at the fleet meanwhile, unless
        it is known."""
        if self._sender is None or not any(map(self._is_soon, due_at_ms)):
            return
        with self._lock:
            now_s = self._clock.monotonic_s()
            is_known = self._looked_s is not None and now_s < self._looked_s + CACHE_S
            if is_known or self._is_looking:
                return
            self._is_looking, self._looked_s = True, now_s
        try:
            Thread(target=self._look, name="wake-ups", daemon=True).start()
        except RuntimeError:  # No further thread can be started.
            self._is_looking = False

    def tell(self, tasks: Iterable[Task]) -> None:
        """These tasks have been committed. With nobody to tell of a fleet that is being looked at,
        they are told of afterwards."""
        hints = [
            Hint(due_at_ms, task.id, task.type, shard_of(task.id, self._shards))
            for task in tasks
            if task.state is TaskState.SCHEDULED and self._is_soon(due_at_ms := task.due_at_ms)
        ]
        if not hints:
            return
        with self._lock:
            live = self._live()
            if not live and self._is_looking:
                self._waiting += hints[: WAITING_MAX - len(self._waiting)]
                return
        self._send(hints, live)

    def _is_soon(self, due_at_ms: int | None) -> TypeGuard[int]:
        return due_at_ms is not None and due_at_ms <= self._clock.now_ms() + self._lookahead_ms

    def _look(self) -> None:
        """In a thread of its own. Whoever was seen last stands if the store does not answer."""
        found = self._fleet
        try:
            with contextlib.suppress(SchedulerError):
                found = self._store.heartbeats()
        finally:
            with self._lock:
                self._is_looking, self._fleet = False, found
                waiting, self._waiting = self._waiting, []
        self._send(waiting, self._live())

    def _live(self) -> Sequence[Heartbeat]:
        return ownership.live_heartbeats(self._fleet, now_ms=self._clock.now_ms())

    def _send(self, hints: Sequence[Hint], live: Sequence[Heartbeat]) -> None:
        if self._sender is not None:
            self._sender.send(hints, live)
