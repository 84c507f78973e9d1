"""API keys for tests, and a service that asks for them."""

import random

from chalicelib.api.keys import Scope, key_entry, new_key, parsed_keys
from chalicelib.api.settings import ApiSettings, Auth

_RANDOM = random.Random(1)
READ, WRITE, OLD, OTHER, WRONG, REVOKED = (new_key(_RANDOM.choice) for _ in range(6))
"""OLD is an earlier key of the name of WRITE; OTHER is of another name and can write, too."""
ENTRIES = [
    key_entry("dashboard", Scope.READ, READ),
    key_entry("orders", Scope.WRITE, WRITE),
    key_entry("orders", Scope.WRITE, OLD),
    key_entry("billing", Scope.WRITE, OTHER),
]
BEFORE = [*ENTRIES, key_entry("gone", Scope.WRITE, REVOKED)]
"""The entries while REVOKED was a key."""


def keyed(entries: list[str] = ENTRIES, **limits: int) -> ApiSettings:
    keys = parsed_keys("API_KEYS", ",".join(entries))
    return ApiSettings(auth=Auth.KEYS, keys=keys, **limits)  # type: ignore[arg-type]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
