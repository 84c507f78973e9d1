"""Nodes that are none: small proxies before one engine, each at an address of its own."""

import asyncio
import json
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from chalicelib.config import Settings
from chalicelib.store.alternator.wire.signature import API, CONTENT_TYPE

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}

Check = Callable[[web.BaseRequest, bytes], str | None]


@dataclass(frozen=True)
class Seen:
    """A request to the store, and the address that it came to."""

    host: str
    operation: str
    body: Mapping[str, Any]


@dataclass
class Front:
    """What the nodes do and saw.

    engine: where requests go on to, and who signs them there. listing: what `GET /localnodes`
    answers, as status and body; lists: which addresses a host answers with instead. frozen: hosts
    that take requests and never answer. check: the error to answer a request with, as `code` or
    `code: message`, None to let it pass.
    """

    engine: Settings
    scheme: str
    listing: tuple[int, bytes] = (200, json.dumps(HOSTS).encode())
    lists: dict[str, list[str]] = field(default_factory=dict)
    check: Check = lambda request, body: None
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    looks: Counter[str] = field(default_factory=Counter)
    frozen: set[str] = field(default_factory=set)
    tls: ssl.SSLContext | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _runners: dict[str, web.ServerRunner] = field(default_factory=dict)

    def url(self, host: str = HOSTS[0]) -> str:
        return f"{self.scheme}://{host}:{self.port}"

    def hosts_by_id(self) -> Mapping[str, set[str]]:
        """To which hosts the conditional writes of each task went."""
        hosts = defaultdict(set)
        for seen in self.seen:
            key = seen.body.get("Key") or seen.body.get("Item") or {}
            if "ConditionExpression" in seen.body and "id" in key:
                hosts[key["id"]["S"]].add(seen.host)
        return hosts

    def counts(self) -> Counter[str]:
        return Counter(seen.host for seen in self.seen)

    def start(self, host: str) -> None:
        self.run(self._start(host))

    def stop(self, host: str) -> None:
        """Nobody listens there any more, and what was open is closed."""
        self.run(self._runners.pop(host).cleanup())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self, host: str) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(host, request)

        runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, host, self.port, ssl_context=self.tls).start()
        self.port = self.port or runner.addresses[0][1]
        self._runners[host] = runner

    async def _handle(self, host: str, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if host in self.frozen:
            await asyncio.sleep(60)
        if request.path == "/localnodes":
            self.looks[host] += 1
            if host in self.lists:
                return web.json_response(self.lists[host])
            return web.Response(status=self.listing[0], body=self.listing[1])
        if request.method == "GET":
            return web.Response(text="healthy")
        operation = request.headers["X-Amz-Target"].rpartition(".")[2]
        self.seen.append(Seen(host, operation, json.loads(body)))
        if refusal := self.check(request, body):
            code, _, message = refusal.partition(": ")
            error = {"__type": f"com.amazon.coral.service#{code}", "message": message or "no"}
            return web.json_response(error, status=400)
        # Signed anew: whom the nodes believe, the engine need not know.
        headers = signed_headers(self.engine, operation, body)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.post(self.engine.endpoints[0], data=body, headers=headers) as answer,
        ):
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    def serve(self) -> None:
        self._loop.run_forever()

    def end(self, thread: threading.Thread) -> None:
        for host in list(self._runners):
            self.stop(host)
        self.run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(10)
        self._loop.close()

    async def _end_tasks(self) -> None:
        """Whoever connected while its node was being stopped is left no connection either."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def front(engine: Settings, *hosts: str, tls: ssl.SSLContext | None = None) -> Iterator[Front]:
    """Nodes at these addresses, all at one port."""
    nodes = Front(engine, "https" if tls else "http", tls=tls)
    thread = threading.Thread(target=nodes.serve, daemon=True)
    thread.start()
    for host in hosts:
        nodes.start(host)
    yield nodes
    nodes.end(thread)


def signed_headers(settings: Settings, operation: str, body: bytes) -> dict[str, str]:
    """Those of a request to the first endpoint, by its user."""
    headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": f"{API}.{operation}"}
    request = AWSRequest("POST", f"{settings.endpoints[0]}/", headers=headers, data=body)
    credentials = Credentials(settings.user, settings.secret)
    SigV4Auth(credentials, "dynamodb", settings.region).add_auth(request)
    return dict(request.headers.items())


def signature_check(user: str, secret: str) -> Check:
    """As Alternator with authorization: the signature is computed again, from what came."""

    def check(request: web.BaseRequest, body: bytes) -> str | None:
        words = request.headers.get("Authorization", "").replace(",", " ").split()
        given = dict(word.split("=", 1) for word in words if "=" in word)
        if "Credential" not in given:
            return "MissingAuthenticationTokenException"
        name, day, region, service, _ = given["Credential"].rsplit("/", 4)
        if name != user:
            return "UnrecognizedClientException"
        names = given["SignedHeaders"].split(";")
        again = AWSRequest(
            "POST",
            f"http://{request.headers['Host']}/",
            data=body,
            headers={name: request.headers[name] for name in names},
        )
        again.context["timestamp"] = request.headers["X-Amz-Date"]
        signer = SigV4Auth(Credentials(user, secret), service, region)
        text = signer.string_to_sign(again, signer.canonical_request(again))
        is_right = signer.signature(text, again) == given["Signature"] and "host" in names
        return (
            None
            if is_right and text.split("\n")[2].startswith(day)
            else ("InvalidSignatureException")
        )

    return check


PERMISSIONS = {
    "CreateTable": "CREATE", "DeleteTable": "DROP", "UpdateTimeToLive": "ALTER",
    "BatchGetItem": "SELECT", "GetItem": "SELECT", "Query": "SELECT", "Scan": "SELECT",
    "BatchWriteItem": "MODIFY", "DeleteItem": "MODIFY", "PutItem": "MODIFY", "UpdateItem": "MODIFY",
}  # fmt: skip
"""What Alternator asks of a role. Descriptions and tags are told to everybody."""


def permission_check(granted: Collection[str]) -> Check:
    """As Alternator to a role with these permissions; more may be granted meanwhile."""

    def check(request: web.BaseRequest, body: bytes) -> str | None:
        needed = PERMISSIONS.get(request.headers["X-Amz-Target"].rpartition(".")[2])
        if needed is None or needed in granted:
            return None
        return f"AccessDeniedException: {needed} access is denied to role scheduler"

    return check
