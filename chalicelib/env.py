"""Reads one variable of the environment. What cannot be used raises InvalidSetting, which names the
variable, what it holds and what was expected. An empty variable counts as unset."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from chalicelib.errors import InvalidSetting

Env = Mapping[str, str]
URL_EXPECTED = "a URL such as http://127.0.0.1:8001"


def refused(name: str, text: str, expected: str) -> InvalidSetting:
    return InvalidSetting(f"{name}={text!r}: expected {expected}")


def integer(env: Env, name: str, default: int, least: int, most: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise refused(name, text, f"an integer from {least} to {most}")
    return int(text)


def seconds(env: Env, name: str, default: float, least: float, most: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise refused(name, text, f"seconds from {least} to {most}")
    return value


def switch(env: Env, name: str) -> bool:
    """Whether it is `on`, which is the default, or `off`."""
    text = env.get(name) or "on"
    if text not in ("on", "off"):
        raise refused(name, text, "on or off")
    return text == "on"


def url(name: str, text: str, expected: str = URL_EXPECTED) -> str:
    """The text itself, once it is seen to be an HTTP URL with a host."""
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise refused(name, text, expected)
    return text


def secret(env: Env, name: str) -> str | None:
    """What NAME holds, or the file that NAME_FILE names, without its last line break.

    None if neither is set. No error shows any of it.
    """
    given, path = env.get(name), env.get(f"{name}_FILE")
    if not path:
        return given or None
    if given:
        raise InvalidSetting(f"{name} and {name}_FILE are both set: keep one")
    subject = f"{name}_FILE={path!r}:"
    try:
        text = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise InvalidSetting(f"{subject} it cannot be read ({error.strerror})") from error
    except ValueError:
        raise InvalidSetting(f"{subject} it cannot be read (not UTF-8)") from None
    if not text.strip():
        raise InvalidSetting(f"{subject} it is empty")
    return text


def secret_line(env: Env, name: str) -> str | None:
    """The same, for a secret of which a file holds nothing else, in one line."""
    text = secret(env, name)
    if text is not None and "\n" in text and (path := env.get(f"{name}_FILE")):
        subject = f"{name}_FILE={path!r}:"
        raise InvalidSetting(f"{subject} expected nothing but the secret in one line")
    return text
