"""Wake-up messages: what is opened, and what is dropped."""

import os
from random import Random

import pytest

from chalicelib.config import Settings
from chalicelib.processing.runner import FORGET_AFTER_S
from chalicelib.store.contract import Hint
from chalicelib.wakeups.message import DATAGRAM_MAX, WINDOW_MS, DroppedMessage, Seal
from tests.support.fakes import NOON_MS, Ids, hint_of, new_task

IDS = Ids()
SEAL = Seal("secret", "")


def hints(count: int) -> list[Hint]:
    return [hint_of(new_task(IDS, type="Baz")) for _ in range(count)]


def why(datagram: bytes, *, seal: Seal = SEAL, me: str = "me", now_ms: int = NOON_MS) -> str:
    with pytest.raises(DroppedMessage) as error:
        seal.opened(datagram, me=me, now_ms=now_ms)
    return str(error.value)


@pytest.mark.parametrize("count", [1, 8, 100])
def test_what_is_sent_is_received(count: int) -> None:
    sent = hints(count)
    messages = list(SEAL.messages(sent, to="me", now_ms=NOON_MS))
    assert max(map(len, messages)) <= DATAGRAM_MAX
    assert [hint for one in messages for hint in SEAL.opened(one, me="me", now_ms=NOON_MS)] == sent


def test_nothing_else_is_opened() -> None:
    (message,) = SEAL.messages(hints(2), to="me", now_ms=NOON_MS)
    assert why(message, me="other") == "forged", "it was sent to another processor"
    assert why(message, seal=Seal("other", "")) == "forged"
    assert why(message, seal=Seal("secret", "other_")) == "forged"
    assert why(message[:-1]) == "forged"
    for at in range(len(message)):
        changed = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        assert why(changed) == "forged"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 300, DATAGRAM_MAX + 1])
def test_noise_is_dropped(size: int) -> None:
    assert why(os.urandom(size)) == "forged"
    assert why(bytes(size)) == "forged"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"[1]", b'[1,[["a","b","c"]]]', b"\xff", b"["])
def test_what_another_version_may_send_is_dropped(body: bytes) -> None:
    assert why(SEAL._mac("me", body) + body) == "unreadable"


def test_time_window() -> None:
    (message,) = SEAL.messages(hints(1), to="me", now_ms=NOON_MS)
    for off_ms in (-WINDOW_MS, 0, WINDOW_MS):
        assert SEAL.opened(message, me="me", now_ms=NOON_MS + off_ms)
    for off_ms in (-WINDOW_MS - 1, WINDOW_MS + 1, Random(1).randrange(WINDOW_MS, 10**9)):
        assert why(message, now_ms=NOON_MS + off_ms) == "late"


def test_a_repeated_message_meets_a_processor_that_remembers_its_hints() -> None:
    assert 2 * WINDOW_MS < FORGET_AFTER_S * 1000


def test_the_key_is_that_of_the_settings() -> None:
    seal = Seal.of(Settings(secret="secret"))
    (message,) = seal.messages(hints(1), to="me", now_ms=NOON_MS)
    assert SEAL.opened(message, me="me", now_ms=NOON_MS)


def test_what_fits_no_datagram_is_left_out() -> None:
    long = [hint._replace(type="x" * DATAGRAM_MAX) for hint in hints(1)]
    assert list(SEAL.messages(long, to="me", now_ms=NOON_MS)) == []
