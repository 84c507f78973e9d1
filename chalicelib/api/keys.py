"""API keys: long random tokens. The service knows their names, scopes and hashes, never a key.

A key is 256 random bits, so one SHA-256 hides it: nobody can try them all. A slow hash, which makes
up for guessable passwords, would only cost time at each request.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from chalicelib.errors import InvalidSetting

KEY_PREFIX = "schedkey_"
"""Secret scanners find a key by `schedkey_[0-9A-Za-z]{43}`."""
KEY_CHARS = 43
"""Behind the prefix; so many of 62 letters and digits are 256 bits."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
NAME_EXPECTED = "1 to 40 of A-Z a-z 0-9 . _ -, the first a letter or digit"

_LETTERS = string.digits + string.ascii_letters
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class Scope(StrEnum):
    """What a key may do. `write` includes `read`: who creates a task may see what came of it."""

    READ = "read"
    WRITE = "write"

    def includes(self, needed: "Scope") -> bool:
        return self is Scope.WRITE or needed is Scope.READ


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What the service knows of a key. digest: its SHA-256."""

    name: str
    scope: Scope
    digest: bytes = field(repr=False)


def new_key(choice: Callable[[str], str] = secrets.choice) -> str:
    """A fresh key."""
    return KEY_PREFIX + "".join(choice(_LETTERS) for _ in range(KEY_CHARS))


def key_entry(name: str, scope: Scope, key: str) -> str:
    """The entry of API_KEYS for a key."""
    return f"{name}:{scope}:{_digest(key).hex()}"


def parsed_keys(variable: str, text: str) -> tuple[ApiKey, ...]:
    """The keys of entries NAME:SCOPE:HASH, separated by commas or lines; # begins a comment.

    Raises InvalidSetting, which names entries by their number: an entry may hold a key by mistake.
    """
    keys = tuple(_parsed(variable, number, entry) for number, entry in _entries(text))
    if not keys:
        raise InvalidSetting(
            f"{variable} has no entry; expected NAME:SCOPE:HASH, several by commas"
        )
    numbers: dict[bytes, int] = {}
    for number, key in enumerate(keys, 1):
        if (first := numbers.setdefault(key.digest, number)) != number:
            raise InvalidSetting(f"{variable}: entries {first} and {number} are of the same key")
    return keys


def found_key(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """The key that was presented. It takes as long for any: all are compared, each in full."""
    digest, found = _digest(presented), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _entries(text: str) -> Iterator[tuple[int, str]]:
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = (entry.strip() for line in lines for entry in line.split(","))
    return enumerate(filter(None, entries), 1)


def _parsed(variable: str, number: int, entry: str) -> ApiKey:
    parts = entry.split(":")
    subject = f"{variable}: entry {number}:"
    if len(parts) != 3:
        raise InvalidSetting(f"{subject} expected NAME:SCOPE:HASH, by two colons")
    name, scope, digest = parts
    if not NAME.fullmatch(name):
        raise InvalidSetting(f"{subject} the name cannot be used; expected {NAME_EXPECTED}")
    if scope not in set(Scope):
        raise InvalidSetting(f"{subject} the scope is not known; expected read or write")
    if not _DIGEST.fullmatch(digest):
        expected = "the SHA-256 of a key, 64 hexadecimal digits, not the key itself"
        raise InvalidSetting(f"{subject} the hash cannot be used; expected {expected}")
    return ApiKey(name, Scope(scope), bytes.fromhex(digest))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
