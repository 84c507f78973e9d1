"""Output that never makes its writer wait.

A thread of its own writes the pieces in order, each one whole: the rest of a cut write goes first.
While a descriptor takes nothing (its reader stalls, the disk is full), pieces wait here. A piece
that can never be written, or finds no room to wait, is counted as lost.
"""

import contextlib
import errno
import fcntl
import logging
import math
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from io import TextIOBase
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from chalicelib.clock import Clock, Sleep, pause
from chalicelib.errors import InvalidSetting
from chalicelib.throttle import Throttle

log = logging.getLogger(__name__)

PIPE_BYTES = 4096
"""A pipe takes this much as a whole or not at all (PIPE_BUF)."""
RETRY_S = 0.25
FLUSH_LOOK_S = 0.005
GATHER_S = 0.005
LAST_LINES_S = 0.5
"""How long the last lines may take to leave."""
STALLED_AFTER_S = 0.25
"""A write that takes longer is stalled."""
WORTH_WAITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""Errors that can pass: the write is tried again."""

_file_locks: dict[tuple[int, int], Lock] = {}
# A thread that held one did not come along.
os.register_at_fork(after_in_child=_file_locks.clear)


class Outlet:
    """One descriptor. Safe for many threads, but not across a fork: there each makes its own.

    room: how many pieces may wait; None: any number. write: as os.write. sleep: waits between two
    tries of what may succeed later.
    waiting: how many pieces have not left yet. lost: how many had no room or can never be written.
    why: what the last failed write said.
    """

    def __init__(
        self,
        descriptor: int,
        clock: Clock,
        room: int | None = None,
        *,
        write: Callable[[int, memoryview], int] = os.write,
        sleep: Sleep = pause,
    ) -> None:
        self.waiting = 0
        self.lost = 0
        self.why = ""
        self.descriptor = descriptor
        self._clock = clock
        self._write_some = write
        self._sleep = sleep
        self._room = math.inf if room is None else room
        self._pieces: SimpleQueue[bytes] = SimpleQueue()
        self._counting = Lock()
        self._since_s: float | None = None
        self._file = _file_of(descriptor)
        self._thread: Thread | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether the descriptor takes nothing now."""
        since_s = self._since_s
        return since_s is not None and self._clock.monotonic_s() - since_s > STALLED_AFTER_S

    def put(self, piece: bytes) -> None:
        """To be written, soon."""
        with self._counting:
            if self.waiting >= self._room:
                self.lost += 1
                return
            self.waiting += 1
            if self._thread is None:
                self._thread = Thread(target=self._run, name="output", daemon=True)
                self._thread.start()
        self._pieces.put(piece)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put before is written or lost; False if that took longer."""
        until_s = self._clock.monotonic_s() + timeout_s
        while self.waiting:
            if self._clock.monotonic_s() >= until_s:
                return False
            pause(FLUSH_LOOK_S)
        return True

    def _run(self) -> None:
        while True:
            pieces = self._next()
            self._since_s = self._clock.monotonic_s()
            with self._alone():
                lost = self._write(pieces)
            self._since_s = None
            with self._counting:
                self.lost += lost
                self.waiting -= len(pieces)
            # What comes meanwhile leaves together: to wake up for each would cost 10 % of a task.
            pause(GATHER_S)

    def _next(self) -> list[bytes]:
        """Wait for a piece; with it come those that one write takes as well."""
        pieces = [self._pieces.get()]
        size = len(pieces[0])
        while size < PIPE_BYTES // 2:
            try:
                pieces.append(self._pieces.get_nowait())
            except Empty:
                break
            size += len(pieces[-1])
        return pieces

    def _write(self, pieces: list[bytes]) -> int:
        """Returns how many can never be written."""
        whole = b"".join(pieces)
        # A pipe takes up to PIPE_BUF as a whole: others may write to it as well.
        batches = [whole] if len(whole) <= PIPE_BYTES else pieces
        for place, batch in enumerate(batches):
            left = memoryview(batch)
            while left:
                try:
                    left = left[self._write_some(self.descriptor, left) :]
                except OSError as error:
                    self.why = os.strerror(error.errno or 0)
                    if error.errno not in WORTH_WAITING:
                        return len(pieces) if len(batches) == 1 else len(pieces) - place
                    self._wait(error)
        return 0

    def _wait(self, error: OSError) -> None:
        """Until there may be room again."""
        if error.errno == errno.EAGAIN:
            poll = select.poll()
            poll.register(self.descriptor, select.POLLOUT)
            poll.poll(RETRY_S * 1000)
        else:
            self._sleep(RETRY_S)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A file can take a part of a piece, so nobody else may write to it meanwhile."""
        if self._file is None:
            yield
            return
        with _file_locks.setdefault(self._file, Lock()):
            with contextlib.suppress(OSError):
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


class Lines:
    """Prints lines, and logs when they do not leave. A line that can still leave is kept."""

    def __init__(self, outlet: Outlet, clock: Clock) -> None:
        self._outlet = outlet
        self._clock = clock
        self._stalled_s: float | None = None
        self._told_lost = 0
        self._throttle = Throttle()

    def __call__(self, line: str) -> None:
        self._outlet.put(f"{line}\n".encode())

    def is_held_up(self) -> bool:
        """Whether no task should start now, as its line could not leave."""
        return self._outlet.is_stalled

    def look(self) -> None:
        """Call it about once a second: it tells what changed."""
        now_s = self._clock.monotonic_s()
        if not self._outlet.is_stalled:
            if self._stalled_s is not None:
                text, extra = "lines leave again after %.0f s", {"action": "output_flows"}
                log.info(text, now_s - self._stalled_s, extra=extra)
            self._stalled_s = None
        elif self._stalled_s is None:
            self._stalled_s = now_s
            text = "standard output takes no line (%s): no task is claimed until it does"
            extra = {"action": "output_stalled"}
            log.warning(text, self._outlet.why or "a write does not end", extra=extra)
        if self._outlet.lost > self._told_lost and self._throttle.admits(now_s):
            self._tell_lost(self._outlet.lost)

    def close(self, timeout_s: float = LAST_LINES_S) -> None:
        """Wait so long for the lines to leave; tell how many have not."""
        self._outlet.flush(timeout_s)
        lost = self._outlet.lost + self._outlet.waiting
        if lost > self._told_lost:
            self._tell_lost(lost)

    def _tell_lost(self, lost: int) -> None:
        self._told_lost = lost
        text = "%d lines could not be printed (%s); each stands in its task's record"
        extra = {"action": "lines_lost", "lines": lost}
        log.warning(text, lost, self._outlet.why or "nobody reads them", extra=extra)


class TextOutlet(TextIOBase):
    """What takes the place of `sys.stdout` and `sys.stderr`: `print` waits for nobody."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._begun = ""

    def fileno(self) -> int:
        return self._outlet.descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        whole, newline, rest = (self._begun + text).rpartition("\n")
        self._begun = rest
        if newline:
            self._outlet.put((whole + newline).encode(errors="backslashreplace"))
        return len(text)


def check_descriptors() -> None:
    """Raise InvalidSetting if nothing can be written to standard output. Standard input and error
    become /dev/null if they are closed, lest a file of ours takes their place."""
    why = ""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            why = f"it is closed ({error.strerror})" if descriptor == 1 else why
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free.
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        os.write(1, b"")
    except OSError as error:
        why = why or f"it cannot be written ({error.strerror})"
    if why:
        message = f"standard output: {why}; send lines that nobody needs to /dev/null"
        raise InvalidSetting(message)


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """What tells a regular file from others; None for anything else."""
    with contextlib.suppress(OSError):
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return status.st_dev, status.st_ino
    return None
