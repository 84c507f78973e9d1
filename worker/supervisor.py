"""Keeps N child processes alive and kills one in which a handler outlives its deadline."""

import logging
import multiprocessing
import multiprocessing.util
import signal
from dataclasses import dataclass, field
from mmap import mmap
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any

from chalicelib import log as logs
from chalicelib.attempts import LEASE_MS
from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.processing import held_claims
from chalicelib.processing.ledger import Record, no_record
from worker import child
from worker.ending import ending_signals
from worker.exposition import Exposition
from worker.life import Life

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.05
SECOND_SIGNAL_AFTER_S = 1.0
"""Signals closer together are one: a terminal and a parent may both send it."""
DRAIN_WITHIN_S = 6.7
RESTART_WAIT_S = 0.05
RESTART_WAIT_MAX_S = 0.25
"""A place is empty for so long at most: what the dead process held is taken over by the next
one, and must not wait."""
STABLE_AFTER_S = 10.0
TURNS_WITHIN_S = 10.0
"""A child whose event loop has stood still for longer shows no life; it is killed before."""

_processes = multiprocessing.get_context("fork")


@dataclass(slots=True)
class Slot:
    """A place for one child. restarts: in quick row.

    kill_at_s, turned_s, claims: see Shared. family: of the child that lives; dead: of those before
    it, by when each died.
    """

    number: int
    kill_at_s: Any
    turned_s: Any
    claims: mmap
    family: "child.Pipe | None" = None
    dead: list[tuple[float, child.Pipe]] = field(default_factory=list)
    process: ForkProcess | None = None
    started_s: float = 0.0
    start_at_s: float = 0.0
    restarts: int = 0


def _slot(number: int, places: int) -> Slot:
    claims = mmap(-1, held_claims.memory_bytes(places))
    return Slot(number, RawValue("d", 0.0), RawValue("d", 0.0), claims)


def _left(slot: Slot, now_s: float) -> list[child.Pipe]:
    """Of the dead of whom something may live on; after a lease that makes no difference."""
    for one in slot.dead[:]:
        died_s, family = one
        if family.poll() or now_s - died_s > LEASE_MS / 1000:
            family.close()
            slot.dead.remove(one)
    return [family for _, family in slot.dead]


class Supervisor:
    """Children are forked, so that they stay in this session and process group."""

    def __init__(
        self,
        settings: Settings,
        processes: int,
        clock: Clock,
        life: Life,
        ledger: str | None = None,
        record: Record = no_record,
        exposition: Exposition | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._life = life
        self._ledger = ledger
        self._record = record
        self._exposition = exposition
        self._slots = [_slot(number, settings.batch_size) for number in range(processes)]
        self._signals_s: list[float] = []

    def run(self) -> int:
        for number in ending_signals():
            signal.signal(number, self._on_signal)
        # Forked processes share it, so what killed ones leave in it goes with this one.
        multiprocessing.util.get_temp_dir()
        child.wait_for_store(self._settings, self._clock, self._is_stopped)
        while not self._signals_s:
            for slot in self._slots:
                self._look_after(slot)
            self._look_after_exposition()
            if all(self._is_well(slot) for slot in self._slots):
                self._show_life()
            logs.look()
            self._wait()
        return self._end()

    def _is_stopped(self) -> bool:
        """Asked while this waits for the store; to wait is to live."""
        self._look_after_exposition()
        self._show_life()
        return bool(self._signals_s)

    def _show_life(self) -> None:
        self._life.show()
        if self._exposition is not None:
            self._exposition.show_life()

    def _look_after_exposition(self) -> None:
        if self._exposition is not None:
            self._exposition.look()

    def _is_well(self, slot: Slot) -> bool:
        """Its child lives and turns, and has not just replaced one that ended early."""
        now_s = self._clock.monotonic_s()
        if slot.process is None or (slot.restarts and now_s - slot.started_s < STABLE_AFTER_S):
            return False
        turned_s: float = max(slot.turned_s.value, slot.started_s)
        return now_s - turned_s < TURNS_WITHIN_S

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals_s.append(self._clock.monotonic_s())

    def _wait(self) -> None:
        """Until a child ends, or the next look is due."""
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process]
        multiprocessing.connection.wait(sentinels, LOOK_INTERVAL_S) if sentinels else None

    def _look_after(self, slot: Slot) -> None:
        """Start a child that is not there, unless it has to wait; end one that is stuck."""
        now_s = self._clock.monotonic_s()
        if slot.process is not None and slot.process.exitcode is not None:
            self._note_death(slot, now_s)
        if slot.process is None and now_s >= slot.start_at_s:
            self._start(slot, now_s)
        elif slot.process is not None:
            self._kill_if_stuck(slot, now_s)

    def _start(self, slot: Slot, now_s: float) -> None:
        slot.kill_at_s.value = 0.0
        slot.family, theirs = _processes.Pipe(duplex=False)
        shared = child.Shared(
            kill_at_s=slot.kill_at_s,
            turned_s=slot.turned_s,
            claims=slot.claims,
            family=theirs,
            dead=_left(slot, now_s),
            metrics=slot.number if self._exposition is not None else None,
        )
        slot.process = _processes.Process(
            target=child.main, args=(self._settings, shared, self._ledger), name="processor"
        )
        slot.process.start()
        theirs.close()
        slot.started_s = now_s
        extra = {"action": "process_started", "pid": slot.process.pid}
        log.info("process started", extra=extra)

    def _note_death(self, slot: Slot, now_s: float) -> None:
        """It is over with the process; what it started for handlers may take a moment longer."""
        assert slot.process is not None and slot.family is not None
        self._record("death", None, pid=slot.process.pid)
        slot.dead.append((now_s, slot.family))
        extra = {"action": "process_ended", "pid": slot.process.pid}
        log.warning("process ended with code %s", slot.process.exitcode, extra=extra)
        slot.process.close()
        slot.process = None
        if self._exposition is not None:
            self._exposition.forget(slot.number)
        is_stable = now_s - slot.started_s > STABLE_AFTER_S
        slot.restarts = 0 if is_stable else slot.restarts + 1
        wait_s = RESTART_WAIT_S * 2**slot.restarts if slot.restarts else 0.0
        slot.start_at_s = now_s + min(RESTART_WAIT_MAX_S, wait_s)

    def _kill_if_stuck(self, slot: Slot, now_s: float) -> None:
        assert slot.process is not None
        if 0.0 < slot.kill_at_s.value < now_s and slot.process.is_alive():
            extra = {"action": "process_killed", "pid": slot.process.pid}
            log.error("a handler outlived its deadline: process killed", extra=extra)
            slot.process.kill()
            slot.kill_at_s.value = 0.0

    def _end(self) -> int:
        """Drain, then kill what is left; a second signal kills at once."""
        first_s = self._signals_s[0]
        left = [slot.process for slot in self._slots if slot.process is not None]
        for process in left:
            process.terminate()
        while any(process.is_alive() for process in left):
            is_repeated = self._signals_s[-1] - first_s > SECOND_SIGNAL_AFTER_S
            is_late = self._clock.monotonic_s() - first_s > DRAIN_WITHIN_S
            if is_repeated or is_late:
                for process in left:
                    process.kill()
            for process in left:
                process.join(LOOK_INTERVAL_S / len(left))
            for slot in self._slots:
                if slot.process is not None and slot.process.is_alive():
                    self._kill_if_stuck(slot, self._clock.monotonic_s())
        is_repeated = self._signals_s[-1] - first_s > SECOND_SIGNAL_AFTER_S
        return 1 if is_repeated else 0
