"""What the lean HTTP client makes of servers that misbehave, and of what is signed and sent."""

import asyncio
import gzip
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from chalicelib.clock import Clock, SystemClock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError, StoreUnavailable
from chalicelib.store.alternator.outcome import ConditionFailed, Throttled, Unanswered, Unsent
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.wire import connection as connections
from chalicelib.store.alternator.wire.transport import PROCESSOR, Transport
from chalicelib.store.clock import StoreClock

DATE = "Tue, 24 Nov 2026 12:00:00 GMT"


@dataclass(frozen=True)
class Received:
    """A request as it came. connection: which one of the server's, from 1."""

    connection: int
    headers: dict[str, str]
    body: bytes

    @property
    def number(self) -> int:
        number: int = json.loads(self.body)["number"]
        return number


Act = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Reads whole requests and lets `act` do with each whatever it likes.

    connections: those that a request to the store came by.
    """

    act: Act
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: list["asyncio.Task[None]"] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://localhost:{self.port}"

    async def ended(self) -> None:
        """Until no connection is served any more; what still sleeps is not waited for."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.lost.set()
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.strip().split("\r\n")
            if lines[0] == "GET /localnodes HTTP/1.1":
                writer.write(answer({}, "Connection: close", status="404 Not Found"))
                return
            assert lines[0] == "POST / HTTP/1.1"
            self.connections += not number
            number = number or self.connections
            pairs = (line.split(": ", 1) for line in lines[1:])
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            request = Received(number, headers, body)
            self.received.append(request)
            await self.act(request, writer)


def answer(content: JsonObject, *headers: str, status: str = "200 OK") -> bytes:
    body = json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def echo(request: Received) -> bytes:
    return answer({"number": request.number})


def asked(number: int) -> Request:
    return Request("GetItem", {"number": number})


def run(
    act: Act,
    use: Callable[[Transport, Server], Awaitable[Any]],
    *,
    tls: ssl.SSLContext | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Any:
    """What `use` returns, with a transport to a server that does `act` with each request."""

    async def main() -> Any:
        server = Server(act)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
        endpoint = f"{'https' if tls else 'http'}://localhost:{server.port}"
        found = Settings(endpoints=(endpoint,), **settings)
        transport = Transport.open(found, clock or SystemClock())
        try:
            return await use(transport, server)
        finally:
            await transport.close()
            listening.close()
            await server.ended()

    return asyncio.run(main())


async def send(transport: Transport, number: int = 0, timeout_s: float = 5.0) -> JsonObject:
    return await transport.send(asked(number), key=None, attempt=0, timeout_s=timeout_s)


async def say(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(echo(request))


def test_one_connection_serves_one_request_after_the_other() -> None:
    async def use(transport: Transport, server: Server) -> None:
        for number in range(20):
            assert await send(transport, number) == {"number": number}
        assert server.connections == 1

    run(say, use)


def test_answers_find_their_requests_among_many_side_by_side() -> None:
    async def slow_first(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05 if request.number % 3 == 0 else 0.0)
        writer.write(echo(request))

    async def use(transport: Transport, server: Server) -> None:
        answers = await asyncio.gather(*(send(transport, number) for number in range(200)))
        assert [found["number"] for found in answers] == list(range(200))
        assert server.connections <= 6, "2 x batch_size is the limit"

    run(slow_first, use, batch_size=3)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_answer_may_come_in_pieces_and_chunked(size: int) -> None:
    async def pieces(request: Received, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"number": request.number, "more": "x" * 500}).encode()
        chunks = b"".join(
            f"{len(body[at : at + 100]):x}\r\n".encode() + body[at : at + 100] + b"\r\n"
            for at in range(0, len(body), 100)
        )
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        for at in range(0, len(whole), size):
            writer.write(whole[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)

    async def use(transport: Transport, server: Server) -> None:
        for number in range(3):
            assert (await send(transport, number))["number"] == number
        assert server.connections == 1

    run(pieces, use)


def test_large_bodies_both_ways() -> None:
    async def large(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer({"text": "y" * (16 << 20), "got": len(request.body)}))
        await writer.drain()

    async def use(transport: Transport, server: Server) -> None:
        request = Request("BatchWriteItem", {"text": "x" * (16 << 20)})
        found = await transport.send(request, key=None, attempt=0, timeout_s=30)
        assert (len(found["text"]), found["got"]) == (16 << 20, (16 << 20) + 11)

    run(large, use)


BROKEN = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "headers only": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"num',
    "half a chunk": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{"num',
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "no length": b'HTTP/1.1 200 OK\r\n\r\n{"number": 0}',
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n\r\n"
    ),
    "interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ok>",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    "503": answer({"__type": "x#ServiceUnavailable"}, status="503 No"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_a_whole_answer_is_unanswered(what: str) -> None:
    async def broken(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.number:
            writer.write(echo(request))
            return
        writer.write(BROKEN[what])
        await writer.drain()
        writer.close()

    async def use(transport: Transport, server: Server) -> None:
        await send(transport, 1)
        with pytest.raises(Unanswered):
            await send(transport, 0)
        await asyncio.sleep(0.02)
        assert await send(transport, 2) == {"number": 2}
        assert server.connections == 2

    run(broken, use)


@pytest.mark.parametrize(
    "what", sorted(set(BROKEN) - {"nothing", "no JSON", "empty", "500", "503"})
)
def test_half_an_answer_without_an_end_is_unanswered_in_time(what: str) -> None:
    async def broken(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(echo(request) if request.number else BROKEN[what])

    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered):
            await send(transport, 0, timeout_s=0.2)
        assert await send(transport, 2) == {"number": 2}
        assert server.connections == 2, "the connection was closed, not used again"

    run(broken, use)


def test_reset_in_the_middle_is_unanswered() -> None:
    async def reset(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()

    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered):
            await send(transport)

    run(reset, use)


def test_late_answer_reaches_nobody_after_a_timeout() -> None:
    async def late(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3 if request.number == 0 else 0.0)
        writer.write(echo(request))

    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered, match=r"no answer within 0\.1 s"):
            await send(transport, 0, timeout_s=0.1)
        for number in range(1, 40):
            assert await send(transport, number) == {"number": number}
            await asyncio.sleep(0.01)
        assert {request.connection for request in server.received} == {1, 2}
        assert [r.connection for r in server.received[1:]] == [2] * 39

    run(late, use)


def test_late_answer_reaches_nobody_after_a_cancellation() -> None:
    async def late(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1 if request.number < 50 else 0.0)
        writer.write(echo(request))

    async def use(transport: Transport, server: Server) -> None:
        asking = [asyncio.create_task(send(transport, number)) for number in range(50)]
        await asyncio.sleep(0.05)
        for task in asking:
            task.cancel()
        found = await asyncio.gather(*(send(transport, number) for number in range(50, 150)))
        assert [each["number"] for each in found] == list(range(50, 150))
        assert all(task.cancelled() for task in asking)
        old = {request.connection for request in server.received if request.number < 50}
        assert old.isdisjoint(r.connection for r in server.received if r.number >= 50)

    run(late, use)


def test_cancelled_at_the_moment_of_its_answer_spoils_nothing() -> None:
    async def use(transport: Transport, server: Server) -> None:
        for number in range(0, 200, 2):
            task = asyncio.create_task(send(transport, number))
            while len(server.received) <= number:
                await asyncio.sleep(0)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                assert await task == {"number": number}
            assert await send(transport, number + 1) == {"number": number + 1}

    run(say, use)


@pytest.mark.parametrize("is_at_once", [True, False])
def test_surplus_answer_is_nobodys(is_at_once: bool) -> None:
    async def twice(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(echo(request) + (answer({"number": 99}) if is_at_once else b""))
        await writer.drain()
        if not is_at_once:
            await asyncio.sleep(0.02)
            writer.write(answer({"number": 99}))

    async def use(transport: Transport, server: Server) -> None:
        for number in range(5):
            assert await send(transport, number) == {"number": number}
            await asyncio.sleep(0.05)
        assert server.connections == 5, "no connection is trusted that said too much"

    run(twice, use)


@pytest.mark.parametrize("is_announced", [True, False])
def test_connection_that_the_server_closed_is_not_used_again(is_announced: bool) -> None:
    async def closing(request: Received, writer: asyncio.StreamWriter) -> None:
        header = "Connection: close" if is_announced else "X: y"
        writer.write(answer({"number": request.number}, header))
        await writer.drain()
        writer.close()

    async def use(transport: Transport, server: Server) -> None:
        for number in range(5):
            assert await send(transport, number) == {"number": number}
            await asyncio.sleep(0.02)
        assert server.connections == 5

    run(closing, use)


def test_connection_closed_under_a_request_is_unanswered() -> None:
    """Whether it was applied is unknown: nothing is sent again unasked."""

    async def second_is_lost(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.number == 1:
            writer.close()
        else:
            writer.write(echo(request))

    async def use(transport: Transport, server: Server) -> None:
        await send(transport, 0)
        with pytest.raises(Unanswered, match="ended before"):
            await send(transport, 1)
        assert [request.number for request in server.received] == [0, 1]

    run(second_is_lost, use)


def test_old_connection_is_closed_instead_of_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(transport: Transport, server: Server) -> None:
        await asyncio.gather(*(send(transport, number) for number in range(4)))
        before = server.connections
        await asyncio.sleep(0.1)
        await send(transport, 4)
        assert server.connections == before + 1
        await asyncio.wait_for(server.lost.wait(), 2)

    monkeypatch.setattr(connections, "IDLE_MAX_S", 0.05)
    run(say, use)


def test_waiting_for_a_free_connection_counts_as_waiting() -> None:
    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def use(transport: Transport, server: Server) -> None:
        asking = (send(transport, number, timeout_s=0.2) for number in range(6))
        found = asyncio.gather(*asking, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert server.connections == 2
        kinds = Counter(type(each) for each in await found)
        assert kinds == {Unanswered: 2, Unsent: 4}, "what was not sent is told apart"

    run(silent, use, batch_size=1)


@pytest.mark.parametrize("is_tls", [False, True])
def test_close_ends_busy_connections_too(is_tls: bool, certificate: Path) -> None:
    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def use(transport: Transport, server: Server) -> None:
        asking = [asyncio.create_task(send(transport, number)) for number in range(5)]
        while len(server.received) < PROCESSOR.start:
            await asyncio.sleep(0.01)
        await transport.close()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in found] == [Unanswered] * 3 + [Unsent] * 2
        with pytest.raises(Unanswered, match="closed"):
            await send(transport)
        await asyncio.wait_for(server.lost.wait(), 2)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    run(silent, use, tls=tls if is_tls else None, ca_file=str(certificate))


def test_close_while_connecting_leaves_nothing() -> None:
    async def use(transport: Transport, server: Server) -> None:
        for _ in range(20):
            other = Transport.open(Settings(endpoints=(server.endpoint,)), SystemClock())
            asking = [asyncio.create_task(send(other)) for _ in range(5)]
            await asyncio.sleep(0)
            await other.close()
            await asyncio.gather(*asking, return_exceptions=True)

    run(say, use)


def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
                await writer.drain()

    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered, match="more than 1000000 bytes"):
            await send(transport)

    monkeypatch.setattr(connections, "BODY_MAX", 1_000_000)
    run(endless, use)


def test_nobody_listens() -> None:
    async def use(transport: Transport, server: Server) -> None:
        settings = Settings(endpoints=("http://127.0.0.1:9", "http://no-such-host.invalid:9"))
        nowhere = Transport.open(settings, SystemClock())
        for attempt in range(2):
            with pytest.raises(Unanswered):
                await nowhere.send(asked(0), key="k", attempt=attempt, timeout_s=5)

    run(say, use)


def test_refusals_are_told_apart() -> None:
    refusals = [
        (answer({"__type": "com#ConditionalCheckFailedException", "Item": {"id": {"S": "x"}}},
                status="400 No"), ConditionFailed),
        (answer({"__type": "com#UnrecognizedClientException"}, status="400 No"), StoreUnavailable),
        (answer({"__type": "com#RequestLimitExceeded"}, status="400 No"), Throttled),
        (answer({"__type": "com#ValidationException"}, status="400 No"), SchedulerError),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", SchedulerError),
        (b"HTTP/1.1 204 No Content\r\n\r\n", SchedulerError),
        (b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n[]", StoreUnavailable),
        (b"HTTP/1.1 413 Large\r\nContent-Length: 9\r\n\r\nToo large", SchedulerError),
    ]  # fmt: skip

    async def refuse(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(refusals[request.number][0])

    async def use(transport: Transport, server: Server) -> None:
        for number, (_, kind) in enumerate(refusals):
            with pytest.raises(kind) as error:
                await send(transport, number)
            assert type(error.value) is kind
        assert server.connections == 1, "a refusal is a whole answer"

    run(refuse, use)


def test_answer_is_not_asked_for_packed() -> None:
    async def packed(request: Received, writer: asyncio.StreamWriter) -> None:
        assert "accept-encoding" not in request.headers
        body = gzip.compress(b"{}")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered, match="no JSON"):
            await send(transport)

    run(packed, use)


def test_date_tells_how_far_the_clocks_are_apart() -> None:
    async def dated(request: Received, writer: asyncio.StreamWriter) -> None:
        dates = ["Tue, 24 Nov 2099 12:00:00 GMT", "nonsense", "", "Tue, 24 Nov 2099 12:00:00 GMT"]
        writer.write(answer({}, f"dATE: {dates[request.number]}"))

    async def use(transport: Transport, server: Server) -> None:
        for number in range(4):
            await send(transport, number)

    clock = StoreClock(SystemClock())
    run(dated, use, clock=clock)
    dated_ms = parsedate_to_datetime("Tue, 24 Nov 2099 12:00:00 GMT").timestamp() * 1000
    assert dated_ms <= clock.now_ms() < dated_ms + 5_000
    assert dated_ms - 10 <= clock.earliest_ms() < dated_ms + 5_000


@pytest.mark.parametrize("user, secret", [("local", "local"), ("a/b+c", "s=cr&t/é")])
def test_a_server_that_checks_signatures_accepts_ours(user: str, secret: str) -> None:
    async def use(transport: Transport, server: Server) -> Received:
        await send(transport, 7)
        assert server.received[0].headers["host"] == f"localhost:{server.port}"
        return server.received[0]

    request: Received = run(say, use, user=user, secret=secret, region="eu-west-3")
    signed = ("content-type", "x-amz-target")
    again = AWSRequest(
        "POST",
        f"http://{request.headers['host']}/",
        data=request.body,
        headers={name: request.headers[name] for name in signed},
    )
    again.context["timestamp"] = request.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(user, secret), "dynamodb", "eu-west-3")
    again.headers["X-Amz-Date"] = request.headers["x-amz-date"]
    text = signer.string_to_sign(again, signer.canonical_request(again))
    expected = signer.signature(text, again)
    authorization = request.headers["authorization"]
    assert authorization.endswith(f"Signature={expected}")
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-target" in authorization
    assert f"Credential={user}/{request.headers['x-amz-date'][:8]}/eu-west-3/" in authorization


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `localhost`, its key and its authority in one file."""
    file = tmp_path_factory.mktemp("tls") / "node.pem"
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    file.write_bytes(issued.private_key_and_cert_chain_pem.bytes() + authority.cert_pem.bytes())
    return file


def test_https_with_a_ca_file(certificate: Path) -> None:
    async def use(transport: Transport, server: Server) -> None:
        found = await asyncio.gather(*(send(transport, number) for number in range(30)))
        assert [each["number"] for each in found] == list(range(30))

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    run(say, use, tls=tls, ca_file=str(certificate))


def test_https_trusts_nobody_else(certificate: Path) -> None:
    async def use(transport: Transport, server: Server) -> None:
        with pytest.raises(Unanswered, match="CERTIFICATE_VERIFY_FAILED"):
            await send(transport)
        assert server.received == []

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    run(say, use, tls=tls)
