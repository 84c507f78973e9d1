"""A worker that knows task types which go wrong in every way, beside the real ones."""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from chalicelib.processing import isolation
from chalicelib.task_types import Run, handles
from tests.support.fakes import NativePanic
from worker.__main__ import main

GIGABYTE = 1 << 30
PAGE = 4096


@handles("Endless")
async def endless(run: Run) -> str:
    await asyncio.sleep(60)
    return "never"


@handles("Blocking")
async def blocking(run: Run) -> str:
    time.sleep(60)  # noqa: TID251 - blocks the event loop, as a bad handler would
    return "never"


@handles("Exiting")
async def exiting(run: Run) -> str:
    os._exit(3)


@handles("Raising")
async def raising(run: Run) -> str:
    raise ValueError("no")


@handles("Nonsense")
async def nonsense(run: Run) -> Any:
    return [run.task.id, "is not", "a line"]


@handles("Greedy")
async def greedy(run: Run) -> str:
    """Touches every page of a gigabyte, once, and frees it."""
    memory = bytearray(GIGABYTE)
    memory[::PAGE] = b"\x01" * (GIGABYTE // PAGE)
    await asyncio.sleep(0.5)
    return f"Greedy {sum(memory[:: GIGABYTE // 16])}"


@handles("Quick")
async def quick(run: Run) -> str:
    """A line of its own, at once: what Baz does not have."""
    return f"Quick {run.task.id}"


@handles("Panicking")
async def panicking(run: Run) -> str:
    raise NativePanic("panicked")


@handles("Cancelling")
async def cancelling(run: Run) -> str:
    for task in asyncio.all_tasks():
        task.cancel()
    return "never"


@handles("Stopping")
async def stopping(run: Run) -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(60)
    return "never"


@handles("Orphaning")
async def orphaning(run: Run) -> str:
    """In the worker its parent is the supervisor, in a process of its own the fork server."""
    if run.task.leases_lost:
        os.kill(os.getppid(), signal.SIGKILL)
        return "Orphaning"
    # By then its like have started too: each loses one lease, and this process is replaced once.
    await asyncio.sleep(1)
    os._exit(3)


@handles("Regicide")
async def regicide(run: Run) -> str:
    """Kills the process that holds its lease, wherever it runs."""
    above = multiprocessing.parent_process()
    victim = above.pid if run.task.leases_lost and above else os.getpid()
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(60)
    return "never"


@handles("Clutching")
async def clutching(run: Run) -> str:
    """Ends its first process; the second one never gives the interpreter back."""
    if not run.task.leases_lost:
        os._exit(3)
    os.write(2, f"clutching in {os.getpid()}\n".encode())
    return f"never {sum(range(1 << 50))}"


@handles("Brief")
async def brief(run: Run) -> str:
    await asyncio.sleep(1)
    return f"Brief {run.task.id}"


@handles("Leaving")
async def leaving(run: Run) -> str:
    """Ends its first process, and is well from then on; so are the two below."""
    if not run.task.leases_lost:
        await asyncio.sleep(0.1)
        os._exit(3)
    return f"Leaving {run.task.id}"


@handles("Hungry")
async def hungry(run: Run) -> str:
    """Takes more memory than it is allowed."""
    if not run.task.leases_lost:
        memory = bytearray(b"\x01") * (GIGABYTE // 4)
        await asyncio.sleep(5)
        return f"never {len(memory)}"
    return f"Hungry {run.task.id}"


@handles("Stuck")
async def stuck(run: Run) -> str:
    """Blocks its process."""
    if not run.task.leases_lost:
        time.sleep(60)  # noqa: TID251 - as above
    return f"Stuck {run.task.id}"


@handles("Printing")
async def printing(run: Run) -> str:
    print("a stray line")  # noqa: T201 - what a handler must not do
    return "Printing"


if __name__ == "__main__":
    # Each process for a handler imports this module anew, but not what it needs.
    isolation.preload("worker.__main__", "tests.support.fakes")
    sys.exit(main())
