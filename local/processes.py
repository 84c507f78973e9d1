"""The programs of a local run: started, kept running, and ended with it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from chalicelib.clock import Clock
from chalicelib.errors import SchedulerError
from local.settings import ROOT
from worker.ending import ending_signals

LOOK_EVERY_S = 0.1
RESTART_WAIT_S = 0.5
RESTART_WAIT_MAX_S = 10.0
SETTLED_S = 30.0
"""A program that ran so long before it died is started again after the shortest wait."""
IN_A_HURRY_S = 1.0
"""A second signal later than this ends everything at once; an earlier one is the same Ctrl-C."""

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class StartFailed(SchedulerError):
    """The service could not be started."""


class Stopping(Exception):
    """The run was told to end while it still started."""


def say(line: str) -> None:
    """One line for the person at the terminal, if there is one; stdout belongs to the tasks."""
    with contextlib.suppress(OSError):
        print(f"local: {line}", file=sys.stderr, flush=True)


class Signals:
    """Whether this run was told to end, by SIGINT, SIGTERM, SIGHUP or an interrupted make."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_s: float | None = None
        self._make = _make_above()
        self.in_a_hurry = False
        """Told twice: no more patience."""

    def install(self) -> None:
        for number in ending_signals():
            signal.signal(number, self._note)

    @property
    def stopping(self) -> bool:
        if self._first_s is None and self._make and _is_interrupted(self._make):
            self._first_s = self._clock.monotonic_s()
        return self._first_s is not None

    def check(self) -> None:
        """Raise Stopping once the run was told to end."""
        if self.stopping:
            raise Stopping

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = self._clock.monotonic_s()
        if self._first_s is None:
            self._first_s = now
        elif now - self._first_s > IN_A_HURRY_S:
            self.in_a_hurry = True


class Program:
    """A program that must run: started again, after a growing wait, whenever it ends.

    is_apart: in a process group of its own, so that a Ctrl-C in the terminal does not take it
    from under those who need it until they have ended.
    prints_tasks: its stdout is ours; every other one's goes to stderr.
    grace_s: how long it may take to end when told to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        clock: Clock,
        *,
        is_apart: bool = False,
        prints_tasks: bool = False,
        grace_s: float,
    ) -> None:
        self.name = name
        self.grace_s = grace_s
        self._command = command
        self._env = env
        self._clock = clock
        self._is_apart = is_apart
        self._prints_tasks = prints_tasks
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._wait_s = 0.0
        self._again_at_s: float | None = None

    def start(self) -> None:
        """Raises StartFailed if there is no such program."""
        self._started_s = self._clock.monotonic_s()
        self._again_at_s = None
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=None if self._prints_tasks else sys.stderr,
                process_group=0 if self._is_apart else None,
                preexec_fn=_follow_parent(os.getpid()),
            )
        except OSError as error:
            raise StartFailed(f"{self.name} cannot be started: {error}") from error

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def must_run(self) -> None:
        """Raise StartFailed if the program has ended."""
        if not self.is_running:
            raise StartFailed(f"{self.name} {self._how_it_ended()} while the service started")

    def look(self) -> None:
        """Start the program again if it ended and its wait is over."""
        if self.is_running:
            return
        now = self._clock.monotonic_s()
        if self._again_at_s is None:
            has_settled = now - self._started_s > SETTLED_S
            self._wait_s = 0.0 if has_settled else min(self._wait_s * 2, RESTART_WAIT_MAX_S)
            self._wait_s = self._wait_s or RESTART_WAIT_S
            self._again_at_s = now + self._wait_s
            say(f"{self.name} {self._how_it_ended()}; it starts again in {self._wait_s:g} s")
        elif now >= self._again_at_s:
            self.start()

    def terminate(self) -> None:
        if self._process:
            self._process.terminate()

    def kill(self) -> None:
        if self._process and self.is_running:
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> str:
        code = self._process.returncode if self._process else None
        if code is None:
            return "did not start"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


class Repeated(Program):
    """A program that runs to its end, once in every `every_s`, whatever became of the last one.

    One that is still running when the next is due is ended, as Lambda ends a function that
    reaches its timeout.
    """

    every_s = 60.0
    _next_s = 0.0
    _last_code = 0

    def start(self) -> None:
        self._next_s = self._clock.monotonic_s() + self.every_s
        super().start()

    @property
    def has_failed(self) -> bool:
        """Whether the latest one to end did so with another exit code than 0."""
        if self._process and not self.is_running:
            self._last_code = self._process.returncode
        return self._last_code != 0

    def must_run(self) -> None:
        """It may end at any time."""

    def look(self) -> None:
        if self._clock.monotonic_s() < self._next_s:
            return
        if self.is_running:
            say(f"{self.name} took longer than {self.every_s:g} s and was ended")
            self.kill()
        self.start()


class Supervisor:
    """Starts programs in order, keeps them running, and ends them in the opposite order."""

    def __init__(self, signals: Signals, clock: Clock) -> None:
        self._signals = signals
        self._clock = clock
        self._stages: list[list[Program]] = []

    def start(self, *programs: Program) -> None:
        """Start programs that are also ended together."""
        stage: list[Program] = []
        self._stages.append(stage)
        for program in programs:
            stage.append(program)
            program.start()

    def wait_until(self, is_done: Callable[[], bool], what: str, limit_s: float) -> None:
        """Wait for something while all that was started runs.

        Raises StartFailed if it does not, or after `limit_s`; Stopping if told to end.
        """
        until_s = self._clock.monotonic_s() + limit_s
        while not is_done():
            self._signals.check()
            for program in self._programs():
                program.must_run()
            if self._clock.monotonic_s() > until_s:
                raise StartFailed(f"{what} is not there after {limit_s:g} s")
            time.sleep(LOOK_EVERY_S)

    def keep(self) -> None:
        """Keep everything running until told to end."""
        while not self._signals.stopping:
            for program in self._programs():
                program.look()
            time.sleep(LOOK_EVERY_S)

    def end(self) -> None:
        """End everything, the last stage first; at once if told twice."""
        for stage in reversed(self._stages):
            self._end(stage)

    def _end(self, stage: Sequence[Program]) -> None:
        for program in stage:
            program.terminate()
        until_s = self._clock.monotonic_s() + max(
            (program.grace_s for program in stage), default=0.0
        )
        while any(program.is_running for program in stage):
            if self._signals.in_a_hurry or self._clock.monotonic_s() > until_s:
                break
            time.sleep(LOOK_EVERY_S / 2)
        for program in stage:
            program.kill()

    def _programs(self) -> list[Program]:
        return [program for stage in self._stages for program in stage]


def _follow_parent(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the program: ask to be killed when we end.

    Only Linux can do this. It holds for the thread that started the child, so start from the
    main thread.
    """

    def follow() -> None:
        if _LIBC is None:
            return
        _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return follow


def _make_above() -> int | None:
    """The process id of the make that started us, if one did and Linux tells."""
    parent = os.getppid()
    return parent if _status(parent).get("Name") in ("make", "gmake") else None


def _is_interrupted(make: int) -> bool:
    """Whether make got a SIGINT or a SIGHUP, or is gone.

    GNU make passes neither on: it counts on the terminal, which sends them to everybody, and
    waits. That it got one shows all the same: it neither handles nor ignores the next.
    """
    status = _status(make)
    if os.getppid() != make or not status:
        return True
    heeded = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)
    return any(not heeded & 1 << (number - 1) for number in (signal.SIGINT, signal.SIGHUP))


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
