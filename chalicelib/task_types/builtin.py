"""The task types that the service comes with."""

import asyncio

from chalicelib.task_types.registry import Run, handles


@handles("Foo")
async def foo(run: Run) -> str:
    """Sleep 3 seconds."""
    await asyncio.sleep(3)
    return f"Foo {run.task.id}"


@handles("Bar")
async def bar(run: Run) -> str:
    """Ask a web site for the time; the line is the status code of its answer."""
    import aiohttp  # Not before it is needed: the API only wants the names of the types.

    async with aiohttp.ClientSession() as session, session.get(run.bar_url) as response:
        return str(response.status)


@handles("Baz")
async def baz(run: Run) -> str:
    """Draw a number."""
    return f"Baz {run.rng.randint(0, 343)}"
