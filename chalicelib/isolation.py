"""Runs a handler in a process of its own, for a task under whose claim a processor was lost.

Should the handler end or block its process, the task alone bears it, not its neighbours.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from random import Random

from chalicelib.handlers import HANDLERS, Run, checked_line
from chalicelib.task import TIMEOUT_S, Task

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class HandlerDied(Exception):
    """The handler ended its process."""


class HandlerFailed(Exception):
    """The handler raised. The message is what it raised."""


async def run_isolated(run: Run) -> str:
    """The handler's line. Cancelling kills the process. Raises HandlerDied, HandlerFailed."""
    theirs, ours = None, None
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(
        target=_run_in_child, args=(theirs, run.task, run.bar_url), daemon=True
    )
    try:
        await asyncio.to_thread(process.start)
        theirs.close()
        await _readable(ours)
        ok, text = ours.recv()
    except EOFError:
        await asyncio.to_thread(process.join)
        raise HandlerDied(f"the handler ended its process, exit code {process.exitcode}") from None
    finally:
        theirs.close()
        ours.close()
        if process.pid is not None:
            process.kill()
            await asyncio.to_thread(process.join)
            process.close()
    if not ok:
        raise HandlerFailed(text)
    return str(text)


async def _readable(connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())


def _run_in_child(answers: Connection, task: Task, bar_url: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The kernel ends this process even if the handler never gives the interpreter back.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S + 0.5)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    run = Run(task=task, rng=Random(), bar_url=bar_url)
    try:
        line = asyncio.run(_call(run))
    except Exception as error:
        answers.send((False, f"{type(error).__name__}: {error}"))
    else:
        answers.send((True, line))
    answers.close()
    os._exit(0)


async def _call(run: Run) -> str:
    return checked_line(await HANDLERS[run.task.type](run))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    with contextlib.suppress(OSError):
        if parent is not None:
            wait([parent.sentinel])
    os._exit(1)
