"""Runs a handler in a process of its own, for a task under whose claim a processor was lost.

Should the handler end or block its process, the task alone bears it, not its neighbours.
"""

import asyncio
import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import recv_handle, send_handle
from random import Random
from typing import Any, Protocol, Self

from chalicelib.attempts import TIMEOUT_S
from chalicelib.processing.handling import HandlerFailed, called, failure_of, tried
from chalicelib.task import Task
from chalicelib.task_types import HANDLERS, Run

_processes = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """What the processes to come find imported: they would import the main module's needs anew."""
    _processes.set_forkserver_preload([__name__, *modules])


preload()


class HandlerDied(Exception):
    """The handler ended its process."""


class Isolated(Protocol):
    """A place for one handler to run in."""

    async def line(self) -> str:
        """Run the handler and give its line. Raises HandlerDied or HandlerFailed."""

    async def end(self) -> None:
        """Give the place up, whatever runs in it."""


class IsolatedProcess:
    """Isolated in a child forked from a clean process, which takes a few milliseconds.

    family: an end of a pipe that the child keeps open from before its handler starts until it ends.
    """

    def __init__(
        self,
        process: ForkServerProcess,
        pipe: "Connection[Any, Any]",
        family: "Connection[Any, Any] | None",
    ) -> None:
        self._process = process
        self._pipe = pipe
        self._family = family

    @classmethod
    async def start(cls, run: Run, family: "Connection[Any, Any] | None" = None) -> Self:
        """Return once the child is ready to run the handler. Cancelling ends the child."""
        ours, theirs = _processes.Pipe()
        process = _processes.Process(
            target=_run_in_child, args=(theirs, run.task, run.bar_url), daemon=True
        )
        isolated = cls(process, ours, family)
        try:
            await asyncio.to_thread(process.start)
            theirs.close()
            await isolated._receive()
        except BaseException:
            theirs.close()
            await isolated.end()
            raise
        return isolated

    async def line(self) -> str:
        self._pipe.send(self._family is not None)
        if self._family is not None:
            assert self._process.pid is not None
            send_handle(self._pipe, self._family.fileno(), self._process.pid)
        ok, text = await self._receive()
        if not ok:
            raise HandlerFailed(text)
        return str(text)

    async def end(self) -> None:
        # Killed first: it would complain about a broken pipe.
        if self._process.pid is not None:
            self._process.kill()
        self._pipe.close()
        if self._process.pid is not None:
            await asyncio.to_thread(self._process.join)
        self._process.close()

    async def _receive(self) -> Any:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pipe.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._pipe.fileno())
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            await asyncio.to_thread(self._process.join)
            code = self._process.exitcode
            raise HandlerDied(f"the handler ended its process, exit code {code}") from None


def _run_in_child(pipe: "Connection[Any, Any]", task: Task, bar_url: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    try:
        pipe.send(None)
        if pipe.recv():
            recv_handle(pipe)  # It stays open until this process ends.
    except (OSError, EOFError):
        os._exit(1)  # The parent has ended.
    # The kernel ends this process even if the handler never gives the interpreter back.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S + 0.5)
    pipe.send(_outcome(Run(task=task, rng=Random(), bar_url=bar_url)))
    pipe.close()
    os._exit(0)


def _outcome(run: Run) -> tuple[bool, str]:
    """Whether the handler gave a line; the line, or the text of its failure."""
    try:
        outcome = asyncio.run(tried(lambda: called(HANDLERS[run.task.type], run)))
    except BaseException as error:  # Of its event loop: the handler stopped it, or left a task.
        outcome = failure_of(error)
    return (True, outcome) if isinstance(outcome, str) else (False, outcome.text)


def _die_with_parent() -> None:
    """Where the kernel can, it kills this process, even if a handler never gives the interpreter
    back: the sentinel is a pipe that closes when the parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    if hasattr(fcntl, "F_SETSIG"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_die_after, args=(sentinel,), daemon=True).start()


def _die_after(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)
