"""Settings of the API alone, read from the environment and checked once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from chalicelib.api.keys import ApiKey, parsed_keys
from chalicelib.env import integer, refused, secret
from chalicelib.errors import InvalidSetting

HORIZON_DAYS_MAX = 3_660_000
CREATES_MAX = 1_000_000

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


class Auth(StrEnum):
    """Who may call. CLOSED: nobody, since nothing was set where anybody could call."""

    KEYS = "keys"
    IAM = "iam"
    NONE = "none"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """auth: who may call. keys: for Auth.KEYS.

    cors_origins: the sites whose pages may call; none by default.
    horizon_days: how far ahead a send_ts may be; 0: to the end of the year 9999.
    creates_per_minute: how many tasks a caller may create through this process; 0: any number.
    """

    auth: Auth = Auth.NONE
    keys: tuple[ApiKey, ...] = ()
    cors_origins: frozenset[str] = frozenset()
    horizon_days: int = 0
    creates_per_minute: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the environment. Raises InvalidSetting naming the variable, and no secret."""
        env = os.environ if env is None else env
        text = secret(env, "API_KEYS")
        variable = "API_KEYS_FILE" if env.get("API_KEYS_FILE") else "API_KEYS"
        keys = () if text is None else parsed_keys(variable, text)
        return cls(
            auth=_auth(env, variable if keys else None),
            keys=keys,
            cors_origins=_origins(env.get("CORS_ORIGINS") or ""),
            horizon_days=integer(env, "HORIZON_DAYS", 0, 0, HORIZON_DAYS_MAX),
            creates_per_minute=integer(env, "CREATES_PER_MINUTE", 0, 0, CREATES_MAX),
        )


def is_on_lambda(env: Mapping[str, str]) -> bool:
    return "AWS_LAMBDA_FUNCTION_NAME" in env


def _auth(env: Mapping[str, str], keys: str | None) -> Auth:
    """keys: the variable that holds keys, None if there are none."""
    text = env.get("API_AUTH") or ""
    if text not in ("", Auth.NONE, Auth.IAM):
        raise refused("API_AUTH", text, "none or iam, or API_KEYS in its place")
    if keys and text:
        raise InvalidSetting(f"{keys} and API_AUTH={text} are both set: keep one")
    if keys:
        return Auth.KEYS
    return Auth(text) if text else Auth.CLOSED if is_on_lambda(env) else Auth.NONE


def _origins(text: str) -> frozenset[str]:
    origins = [part.strip() for part in text.split(",") if part.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            expected = "origins such as https://app.example.org, separated by commas"
            raise refused("CORS_ORIGINS", origin, expected)
    return frozenset(origins)
