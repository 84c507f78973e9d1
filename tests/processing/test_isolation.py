"""A handler in a process of its own."""

import asyncio
import multiprocessing

import pytest

from chalicelib.processing import isolation
from chalicelib.processing.handling import HandlerFailed
from chalicelib.task_types import HANDLERS, Run
from tests.support.fakes import ODD_ERRORS, run_of


async def isolated_line(run: Run) -> str:
    place = await isolation.IsolatedProcess.start(run)
    try:
        return await place.line()
    finally:
        await place.end()


@pytest.mark.wall_clock
def test_isolated_handler_gives_its_line() -> None:
    assert asyncio.run(isolated_line(run_of("Baz"))).startswith("Baz ")


@pytest.mark.wall_clock
def test_isolated_handler_fails_with_what_it_raised() -> None:
    with pytest.raises(HandlerFailed, match="ClientConnectorError: "):
        asyncio.run(isolated_line(run_of("Bar")))


@pytest.mark.parametrize(("raised", "error"), ODD_ERRORS)
def test_whatever_a_handler_raises_its_own_process_tells(
    raised: BaseException, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(run: Run) -> str:
        raise raised

    monkeypatch.setitem(HANDLERS, "Odd", odd)
    assert isolation._outcome(run_of("Odd")) == (False, error)


def test_handler_that_stops_its_loop_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stops(run: Run) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1)
        return "never"

    monkeypatch.setitem(HANDLERS, "Odd", stops)
    text = "RuntimeError: Event loop stopped before Future completed."
    assert isolation._outcome(run_of("Odd")) == (False, text)


def test_handler_whose_task_exits_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def exits() -> None:
        raise SystemExit(5)

    async def leaves(run: Run) -> str:
        asyncio.get_running_loop().create_task(exits())
        await asyncio.sleep(1)
        return "never"

    monkeypatch.setitem(HANDLERS, "Odd", leaves)
    assert isolation._outcome(run_of("Odd")) == (False, "SystemExit: 5")


@pytest.mark.wall_clock
def test_a_pipe_of_the_family_is_open_while_the_process_lives() -> None:
    async def play() -> None:
        watched, family = multiprocessing.Pipe(duplex=False)
        place = await isolation.IsolatedProcess.start(run_of("Foo"), family)
        running = asyncio.create_task(place.line())
        await asyncio.sleep(0.2)
        family.close()
        assert not watched.poll()
        running.cancel()
        await place.end()
        assert watched.poll(), "nobody holds the other end any more"

    asyncio.run(play())


@pytest.mark.wall_clock
def test_cancelling_ends_the_process() -> None:
    async def cancel() -> None:
        async with asyncio.timeout(1.5):
            await isolated_line(run_of("Foo"))

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())
