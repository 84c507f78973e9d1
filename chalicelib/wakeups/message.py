"""A wake-up message: some hints for one processor in one datagram, authenticated.

    MAC (16 bytes) over the receiver's id and the body; body: JSON [sent_ms, [hint, …]]

The MAC is BLAKE2b with a key, which takes an eighth of the time of HMAC-SHA256: that counts in a
flood. The key comes from the store's secret, which all processes of the service share.
"""

import hmac
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Self

import msgspec

from chalicelib.config import Settings
from chalicelib.store.contract import Hint

WINDOW_MS = 5_000
"""A message that was sent longer ago, or in the future by more, is dropped. A processor remembers
what it dealt with for much longer: a repeated message makes no claim."""
DATAGRAM_MAX = 1_200
"""Bytes that networks carry in one piece."""
HINTS_MAX = 8
"""In one message."""
_MAC_BYTES = 16
_LABEL = "scheduler wake-up 1"

_body = msgspec.json.Decoder(tuple[int, list[Hint]])


class DroppedMessage(Exception):
    """A wake-up message that is not taken. The message is why: one word."""


class Seal:
    """Makes messages, and opens those that a process with the same secret made."""

    def __init__(self, secret: str, table_prefix: str) -> None:
        """table_prefix: installations that share a secret do not take each other's messages."""
        label = f"{_LABEL}/{table_prefix}"
        key = hmac.digest(secret.encode(), label.encode(), "sha256")
        self._keyed = blake2b(key=key, digest_size=_MAC_BYTES)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.secret, settings.table_prefix)

    def messages(self, hints: Sequence[Hint], *, to: str, now_ms: int) -> Iterator[bytes]:
        """Datagrams with these hints for the processor `to`; what is too long is left out."""
        for start in range(0, len(hints), HINTS_MAX):
            body = msgspec.json.encode((now_ms, hints[start : start + HINTS_MAX]))
            if len(body) + _MAC_BYTES <= DATAGRAM_MAX:
                yield self._mac(to, body) + body

    def opened(self, datagram: bytes, *, me: str, now_ms: int) -> Sequence[Hint]:
        """The hints of a message to the processor `me`. Raises DroppedMessage."""
        body = datagram[_MAC_BYTES:]
        if not hmac.compare_digest(datagram[:_MAC_BYTES], self._mac(me, body)):
            raise DroppedMessage("forged")
        try:
            sent_ms, hints = _body.decode(body)
        except (ValueError, RecursionError):
            raise DroppedMessage("unreadable") from None
        if abs(now_ms - sent_ms) > WINDOW_MS:
            raise DroppedMessage("late")
        return hints

    def _mac(self, to: str, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(to.encode() + b"\0" + body)
        return mac.digest()
