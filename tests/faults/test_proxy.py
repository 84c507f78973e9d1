"""The proxy does what it is told: each fault on the engine, and the same ones for a seed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import aiohttp
import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.wire.client import Client
from tests.conftest import free_port
from tests.faults.plan import EMPTY_PAGE, FAULTS, PAGED, Dice, Plan, Rule, evenly
from tests.faults.proxy import serve
from tests.support.engine import Engine
from tests.support.front import signed_headers

NOWHERE = Settings(endpoints=("http://127.0.0.1:9",))
ROW = {"slot": {"S": "1/x"}, "at": {"S": "1#a"}}


@asynccontextmanager
async def proxied(target: Settings, plan: Plan, seed: int = 0) -> AsyncIterator[Settings]:
    """Settings that lead to the target through the proxy."""
    port = free_port()
    serving = asyncio.create_task(serve(port, target, Dice(plan, seed)))
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/_faults"):
                    break
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
    try:
        yield replace(target, endpoints=(url,))
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def send(to: Settings, request: Request, timeout_s: float = 5.0) -> tuple[int, Any]:
    """Status and answer; 0 for a reset, -1 for silence."""
    body = json.dumps(request.body).encode()
    headers = signed_headers(to, request.action, body)
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession() as session,
            session.post(to.endpoints[0], data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.json(content_type=None)
    except aiohttp.ClientError:
        return 0, None
    except TimeoutError:
        return -1, None


@pytest.fixture
def schedule(client: Client, settings: Settings) -> str:
    """A table with nothing in it."""
    return f"{settings.table_prefix}schedule"


def always(fault: str, **more: Any) -> Plan:
    return Plan(rules=(Rule(rates={fault: 1.0}),), **more)


@pytest.mark.parametrize(
    ("fault", "status", "is_applied"),
    [
        ("error_before", 500, False),
        ("error_after", 500, True),
        ("reset_after", 0, True),
        ("silence_after", -1, True),
        ("black_hole", -1, False),
        ("throttle", 400, False),
        ("delay", 200, True),
    ],
)
def test_each_fault(
    schedule: str, settings: Settings, fault: str, status: int, is_applied: bool
) -> None:
    async def play() -> None:
        async with proxied(settings, always(fault)) as there:
            seen, answer = await send(there, requests.put_row(schedule, ROW), timeout_s=1.5)
            assert seen == status
            if fault == "throttle":
                assert answer["__type"] == "RequestLimitExceeded"
        assert await is_there(settings, schedule) is is_applied

    asyncio.run(play())


async def is_there(to: Settings, table: str) -> bool:
    body = {"TableName": table, "Key": ROW, "ConsistentRead": True}
    _, answer = await send(to, Request("GetItem", body))
    return "Item" in answer


def test_late_is_applied_after_the_answer(schedule: str, settings: Settings) -> None:
    async def play() -> None:
        async with proxied(settings, always("late", late_s=(0.3, 0.3))) as there:
            assert (await send(there, requests.put_row(schedule, ROW)))[0] == 500
            assert not await is_there(settings, schedule)
            await asyncio.sleep(0.6)
            assert await is_there(settings, schedule)

    asyncio.run(play())


@pytest.mark.parametrize(("how", "status"), [("silence", -1), ("reset", 0)])
def test_blackout(schedule: str, settings: Settings, how: str, status: int) -> None:
    async def play() -> None:
        async with proxied(settings, Plan()) as there, aiohttp.ClientSession() as session:
            url = there.endpoints[0]
            async with session.post(f"{url}/_plan", json=Plan(blackout=how).data()) as answer:
                assert answer.status == 200
            assert (await send(there, requests.put_row(schedule, ROW), timeout_s=0.3))[0] == status
            async with session.post(f"{url}/_plan", json={"blackout": "what"}) as answer:
                assert answer.status == 400
            async with session.get(f"{url}/_faults") as answer:
                report = await answer.json()
            assert report["by_fault"] == {"PutItem:blackout": 1}
        assert not await is_there(settings, schedule)

    asyncio.run(play())


@pytest.mark.parametrize("descending", [False, True])
def test_following_empty_pages_loses_nothing(
    schedule: str, settings: Settings, client: Client, descending: bool
) -> None:
    """Both clients' ways to page, with more empty pages than full ones."""
    rows = [{"slot": {"S": "1/x"}, "at": {"S": f"{n:03d}#a"}} for n in range(50)]
    for row in rows:
        client.decide(requests.put_row(schedule, row))
    paged = {operation: Rule(operation=operation, rates={EMPTY_PAGE: 0.7}) for operation in PAGED}

    async def play() -> None:
        plan = Plan(rules=tuple(paged.values()))
        async with proxied(settings, plan, seed=3) as there:
            queue = AlternatorTaskQueue.open(there, SystemClock())
            query = requests.query(
                schedule, "slot", "1/x", between=("000", "999"), limit=7, descending=descending
            )
            found = [row async for row in queue._requester.items(query)]
            scanned = [
                row async for row in queue._requester.items(requests.scan(schedule, 0, 1, None))
            ]
            await queue.close()
        assert found == (rows[::-1] if descending else rows)
        assert sorted(row["at"]["S"] for row in scanned) == [row["at"]["S"] for row in rows]

    asyncio.run(play())


def test_what_is_not_the_store_s_protocol_passes(engine: Engine) -> None:
    async def play() -> None:
        async with (
            proxied(engine.settings, always("error_before")) as there,
            aiohttp.ClientSession() as session,
            session.get(f"{there.endpoints[0]}/") as answer,
        ):
            assert answer.status == 200
            assert "healthy" in await answer.text()

    asyncio.run(play())


def test_a_dead_target_is_a_reset() -> None:
    async def play() -> None:
        async with proxied(NOWHERE, Plan()) as there:
            assert (await send(there, requests.put_row("schedule", ROW)))[0] == 0

    asyncio.run(play())


def test_requests_outside_the_profile_are_counted() -> None:
    async def play() -> None:
        async with proxied(NOWHERE, Plan()) as there, aiohttp.ClientSession() as session:
            await send(there, requests.put_row("schedule", ROW))
            await send(there, requests.put_row("tasks", {"id": {"S": "x"}}))
            async with session.get(f"{there.endpoints[0]}/_faults") as answer:
                outside = (await answer.json())["outside_profile"]
        assert outside["PutItem: a write to an LWT table must be conditional"] == 1
        assert {name.partition(":")[0] for name in outside} == {"PutItem"}
        assert set(outside.values()) == {1}

    asyncio.run(play())


def test_the_same_seed_and_order_give_the_same_faults() -> None:
    order = [Random(1).choice(["PutItem", "Query"]) for _ in range(500)]

    def drawn(seed: int) -> list[tuple[str, float]]:
        dice = Dice(evenly(0.5), seed)
        return [dice.draw(operation, b"") for operation in order]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_rates_are_kept() -> None:
    dice = Dice(evenly(0.2), 1)
    drawn = [dice.draw("PutItem", b"")[0] for _ in range(20_000)]
    assert 0.19 < sum(map(bool, drawn)) / len(drawn) < 0.21
    assert set(drawn) == {"", *FAULTS}
    pages = {dice.draw("Scan", b"")[0] for _ in range(20_000)}
    assert pages == {"", *FAULTS, EMPTY_PAGE}


def test_the_first_rule_that_fits_decides() -> None:
    claims = Rule(operation="UpdateItem", containing=":lease", rates={"delay": 1.0})
    plan = Plan(rules=(claims, Rule(rates={"throttle": 1.0})))
    assert Plan.of(plan.data()) == plan
    dice = Dice(plan)
    assert dice.draw("UpdateItem", b"a :lease")[0] == "delay"
    assert dice.draw("UpdateItem", b"none")[0] == "throttle"
    assert dice.draw("PutItem", b"a :lease")[0] == "throttle"


@pytest.mark.parametrize(
    "data",
    [{"rules": [{"rates": {"what": 0.1}}]}, {"rules": [{"rates": {"late": 2}}]}, {"blackout": "x"}],
)
def test_plans_that_cannot_be_played(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Plan.of(data)
