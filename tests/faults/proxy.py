"""`python -m tests.faults.proxy --port N --target URL [--plan JSON] [--seed N]`.

It stands between our clients and the store and does what a store can do at its worst. `GET
/_faults` tells what it did, `POST /_plan` gives it another plan.
"""

import argparse
import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from typing import Any

import aiohttp
from aiohttp import web

from chalicelib.config import Settings
from tests.faults.plan import EMPTY_PAGE, PAGED, Dice, Plan
from tests.support import profile
from tests.support.front import signed_headers

HOLD_S = 15.0
"""A request without an answer is reset after this; every client has given up before."""
BEGINNING = " "
"""A range key before every real one: the key of an empty first page."""
HOP_BY_HOP = frozenset({
    "accept-encoding", "connection", "content-length", "keep-alive", "transfer-encoding",
})  # fmt: skip


class Proxy:
    """Forwards requests to `target`, but for what the dice say."""

    def __init__(self, session: aiohttp.ClientSession, target: Settings, dice: Dice) -> None:
        """target: its endpoint, and who signs there what is not sent on as it came."""
        self._session = session
        self._target = target
        self._dice = dice
        self._requests: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._later: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/_faults":
            return web.json_response(self._report())
        if request.path == "/_plan":
            return self._take_plan(body)
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if self._dice.plan.blackout:
            self._faults[f"{operation}:blackout"] += 1
            return await self._unanswered(request, self._dice.plan.blackout)
        if not operation:
            return await self._forward(request, body)
        return await self._play(request, operation, body)

    def _report(self) -> dict[str, Any]:
        return {
            "requests": sum(self._requests.values()),
            "faults": sum(self._faults.values()),
            "by_operation": dict(sorted(self._requests.items())),
            "by_fault": dict(sorted(self._faults.items())),
            "outside_profile": dict(self._outside),
            "pending": len(self._later),
        }

    def _take_plan(self, body: bytes) -> web.Response:
        try:
            self._dice.plan = Plan.of(json.loads(body))
        except (ValueError, TypeError) as error:
            return web.Response(status=400, text=str(error))
        return web.Response(text="taken")

    async def _play(
        self, request: web.BaseRequest, operation: str, body: bytes
    ) -> web.StreamResponse:
        """One request, with the fault that was drawn for it."""
        self._requests[operation] += 1
        for rule in profile.violations(operation, json.loads(body)):
            self._outside[f"{operation}: {rule}"] += 1
        fault, amount = self._dice.draw(operation, body)
        if fault:
            self._faults[f"{operation}:{fault}"] += 1
        body = _from_beginning(operation, body)
        if fault in ("", "delay"):
            await asyncio.sleep(_between(self._dice.plan.delay_s, amount) if fault else 0)
            return await self._forward(request, body)
        if fault == "throttle":
            return _failed(400, "RequestLimitExceeded")
        if fault == EMPTY_PAGE and operation in PAGED:
            return _empty_page(body)
        if fault == "late":
            wait_s = _between(self._dice.plan.late_s, amount)
            later = asyncio.create_task(self._forward_later(request, body, wait_s))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        if fault.endswith("_after"):
            await self._forward(request, body)
        if fault.startswith(("reset", "silence")) or fault == "black_hole":
            return await self._unanswered(request, fault)
        return _failed(500, "InternalServerError")

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """What the target answers; a reset if it does not."""
        headers = _end_to_end(request.headers.items())
        if body != await request.read():
            operation = request.headers["X-Amz-Target"].rpartition(".")[2]
            headers = signed_headers(self._target, operation, body)
        try:
            url = self._target.endpoints[0] + request.raw_path
            async with self._session.request(
                request.method, url, data=body, headers=headers
            ) as answer:
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers=_end_to_end(answer.headers.items()),
                )
        except (aiohttp.ClientError, OSError):
            return await self._unanswered(request, "reset")

    async def _forward_later(self, request: web.BaseRequest, body: bytes, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self._forward(request, body)

    async def _unanswered(self, request: web.BaseRequest, how: str) -> web.Response:
        if not how.startswith("reset"):
            await asyncio.sleep(HOLD_S)
        if request.transport is not None:
            _reset(request.transport)
        return web.Response()


def _reset(transport: asyncio.Transport) -> None:
    """Close with RST, not with FIN: what was sent may or may not have been read."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _empty_page(body: bytes) -> web.Response:
    """Goes on where the request started: following its key loses nothing."""
    request = json.loads(body)
    start = request.get("ExclusiveStartKey") or _beginning(request)
    return _json(200, {"Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": start})


def _beginning(request: dict[str, Any]) -> dict[str, Any]:
    if "KeyConditionExpression" not in request:
        return {"id": {"S": BEGINNING}}
    name = request["ExpressionAttributeNames"]["#key"]
    range_key = "processor" if name == "fleet" else "at"
    key = request["ExpressionAttributeValues"][":key"]
    return {name: key, range_key: {"S": BEGINNING}}


def _from_beginning(operation: str, body: bytes) -> bytes:
    """The request without the key of an empty first page, which the target does not know."""
    if operation not in PAGED or b"ExclusiveStartKey" not in body:
        return body
    request = json.loads(body)
    if {"S": BEGINNING} in request["ExclusiveStartKey"].values():
        del request["ExclusiveStartKey"]
    return json.dumps(request).encode()


def _failed(status: int, code: str) -> web.Response:
    return _json(status, {"__type": code, "message": "injected by the fault proxy"})


def _json(status: int, data: object) -> web.Response:
    text = json.dumps(data)
    return web.Response(status=status, text=text, content_type="application/x-amz-json-1.0")


def _end_to_end(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in HOP_BY_HOP}


def _between(span: tuple[float, float], amount: float) -> float:
    return span[0] + (span[1] - span[0]) * amount


async def serve(port: int, target: Settings, dice: Dice) -> None:
    """Until cancelled."""
    connector = aiohttp.TCPConnector(limit=256)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False
    ) as session:
        server = web.Server(Proxy(session, target, dice).handle)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
        await site.start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.proxy", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True, help="base URL of the store")
    parser.add_argument("--plan", default="{}", help="a Plan, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        plan = Plan.of(json.loads(options.plan))
    except (ValueError, TypeError) as error:
        parser.error(f"--plan: {error}")
    target = Settings(endpoints=(options.target.rstrip("/"),))
    asyncio.run(serve(options.port, target, Dice(plan, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
