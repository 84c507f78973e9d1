"""A worker that knows task types which go wrong in every way, beside the real ones."""

import asyncio
import os
import sys
from typing import Any

from chalicelib.task_types import Run, handles
from worker.__main__ import main

GIGABYTE = 1 << 30
PAGE = 4096


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
    """Touches every page of a gigabyte, once, and gives it back."""
    memory = bytearray(GIGABYTE)
    memory[::PAGE] = b"\x01" * (GIGABYTE // PAGE)
    await asyncio.sleep(0.5)
    return f"Greedy {sum(memory[:: GIGABYTE // 16])}"


@handles("Quick")
async def quick(run: Run) -> str:
    """A line of its own, at once: what Baz does not have."""
    return f"Quick {run.task.id}"


if __name__ == "__main__":
    sys.exit(main())
