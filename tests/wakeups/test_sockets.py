"""Addresses, listeners and senders on real sockets of this machine."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.contract import Heartbeat, Hint
from chalicelib.task import shard_of
from chalicelib.wakeups import address
from chalicelib.wakeups.listener import TURN_MAX, Listener
from chalicelib.wakeups.message import Seal
from chalicelib.wakeups.sender import Sender, Sockets
from tests.conftest import free_port
from tests.support.fakes import NOON_MS, FakeClock, Ids, hint_of, new_task

SETTINGS = Settings(endpoints=("http://127.0.0.1:8001",))
IDS = Ids()


def heartbeat(processor: str, wakeup: str | None) -> Heartbeat:
    return Heartbeat(processor=processor, kind="worker", written_ms=NOON_MS, wakeup=wakeup)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[fd00::7]:65535", ("fd00::7", 65535)),
        ("127.0.0.1", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("localhost:80", None),
        ("", None),
        (":80", None),
    ],
)
def test_addresses(text: str, expected: tuple[str, int] | None) -> None:
    assert address.parsed(text) == expected
    if expected is not None:
        assert address.shown(*expected) == text


async def heard(settings: Settings, send: Callable[[str], Awaitable[None]]) -> list[bytes]:
    """What a listener takes of what is sent to its address, until it stops."""
    listener = await Listener.open(settings)
    assert listener is not None
    taken: list[bytes] = []
    try:
        listener.start(taken.append)
        await send(listener.address)
        async with asyncio.timeout(5):
            while not taken or taken[-1] != b"last":
                await asyncio.sleep(0.001)
    finally:
        listener.close()
    return taken


def can_bind(host: str) -> bool:
    try:
        with socket.socket(address.family(host), socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_is_where_its_connection_to_the_store_ends(host: str) -> None:
    if not can_bind(host):
        pytest.skip(f"this machine has no {host}")
    sockets = Sockets()

    async def send(at: str) -> None:
        to = address.parsed(at)
        assert to is not None and to[0] == host
        for number in range(TURN_MAX):
            sockets(str(number).encode(), to)
        sockets(b"last", to)

    named = f"[{host}]" if ":" in host else host
    settings = Settings(endpoints=(f"http://{named}:8001",))
    try:
        taken = asyncio.run(heard(settings, send))
    finally:
        sockets.close()
    assert taken == [*(str(number).encode() for number in range(TURN_MAX)), b"last"]


def test_each_process_takes_the_next_free_port() -> None:
    port = free_port()

    async def opened() -> list[str]:
        settings = Settings(endpoints=SETTINGS.endpoints, wakeup_port=port)
        listeners = [await Listener.open(settings) for _ in range(3)]
        for one in listeners:
            if one is not None:
                one.close()
        return [one.address for one in listeners if one is not None]

    ports = [int(at.rpartition(":")[2]) for at in asyncio.run(opened())]
    assert len(ports) == 3
    assert ports[0] >= port
    assert ports == sorted(set(ports))


def test_an_address_of_another_machine_is_told_and_any_is_listened_on() -> None:
    async def opened() -> tuple[str, str]:
        settings = Settings(endpoints=SETTINGS.endpoints, wakeup_address="192.0.2.7")
        listener = await Listener.open(settings)
        assert listener is not None
        try:
            return listener.address, listener._socket.getsockname()[0]
        finally:
            listener.close()

    told, bound = asyncio.run(opened())
    assert told.startswith("192.0.2.7:")
    assert bound == "0.0.0.0"


def test_without_a_socket_there_is_no_listener_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 65_535))
        settings = Settings(endpoints=SETTINGS.endpoints, wakeup_port=65_535)
        assert asyncio.run(Listener.open(settings)) is None
    unknown = Settings(endpoints=("http://store.invalid:8000",))
    assert asyncio.run(Listener.open(unknown)) is None
    assert [record.action for record in caplog.records] == ["wakeups_off"] * 2  # type: ignore[attr-defined]


def test_off_is_off() -> None:
    off = Settings(wakeup=False)
    assert asyncio.run(Listener.open(off)) is None
    assert Sender.of(off, SystemClock()) is None


class Network:
    """A Transmit that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []

    def __call__(self, datagram: bytes, to: tuple[str, int]) -> None:
        self.sent.append((datagram, to))

    def hints(self, me: str, port: int) -> set[Hint]:
        seal = Seal.of(SETTINGS)
        opened = [seal.opened(one, me=me, now_ms=NOON_MS) for one, to in self.sent if to[1] == port]
        return {hint for hints in opened for hint in hints}


def test_each_hint_goes_to_one_processor_that_has_an_address() -> None:
    """An old worker and the tick have none."""
    network = Network()
    sender = Sender(Seal.of(SETTINGS), FakeClock(), network)
    fleet = [
        heartbeat("a", "127.0.0.1:1"),
        heartbeat("b", "127.0.0.1:2"),
        heartbeat("tick", None),
        heartbeat("odd", "nowhere"),
    ]
    hints = {hint_of(new_task(IDS), shards=16) for _ in range(100)}
    sender.send(hints, fleet)
    a, b = network.hints("a", 1), network.hints("b", 2)
    assert a and b and not a & b and a | b == hints
    assert not {shard_of(hint.id, 16) for hint in a} & {shard_of(hint.id, 16) for hint in b}
    network.sent.clear()
    sender.send(hints, fleet[2:])
    assert network.sent == []


@pytest.mark.parametrize("to", [("127.0.0.1", 1), ("255.255.255.255", 1), ("192.0.2.1", 9)])
def test_a_message_that_cannot_be_sent_is_lost(to: tuple[str, int]) -> None:
    sockets = Sockets()
    try:
        for _ in range(3):
            sockets(b"x", to)
        sockets(b"x" * 70_000, to)
    finally:
        sockets.close()
