"""`python -m deploy key`: a new API key. It is shown once and kept nowhere."""

import argparse
import secrets
from collections.abc import Callable

from chalicelib.api.keys import NAME, NAME_EXPECTED, Scope, key_entry, new_key

Say = Callable[[str], None]


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_name, help="who has the key; it stands in the log of writes")
    parser.add_argument(
        "--scope",
        type=Scope,
        choices=list(Scope),
        default=Scope.READ,
        help="what the key may do; write includes read (default: read)",
    )


def make(name: str, scope: Scope, say: Say, choice: Callable[[str], str] = secrets.choice) -> None:
    """Say a fresh key, and its entry for API_KEYS."""
    key = new_key(choice)
    say(f"key (for {name}; it is shown this once): {key}")
    say(f"entry (for API_KEYS): {key_entry(name, scope, key)}")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {NAME_EXPECTED}")
    return text
