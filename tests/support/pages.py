"""The pages of the documentation, and what stands in them."""

import re
import shlex
from collections.abc import Iterator, Mapping

from local.settings import ROOT

Pages = Mapping[str, str]
"""Text by path from the project's folder."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")


def pages() -> dict[str, str]:
    """README.md and docs/*.md."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def prose(text: str) -> str:
    """The page without its code."""
    return SPAN.sub("", FENCE.sub("", text))


def code(text: str) -> Iterator[str]:
    """Blocks and spans."""
    yield from (found[3] for found in FENCE.finditer(text))
    yield from SPAN.findall(FENCE.sub("", text))


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """All blocks of this language, each under the page and line where it stands."""
    for page, text in pages().items():
        for found in FENCE.finditer(text):
            if found[2] == language:
                line = text.count("\n", 0, found.start()) + 1
                yield f"{page}:{line}", found[3]


def anchors(text: str) -> set[str]:
    """The headings of a page, as GitHub names them in links."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def curls(text: str) -> Iterator[list[str]]:
    """The words of each `$ curl` command, which may go over several lines."""
    for found in re.finditer(r"^ *\$ (?=curl )", text, re.MULTILINE):
        yield first_command(text[found.end() :])


def first_command(text: str) -> list[str]:
    """The words of the first command of a text for a shell."""
    whole = ""
    for line in text.replace("\\\n", " ").splitlines(keepends=True):
        whole += line
        try:
            return shlex.split(whole)
        except ValueError:  # A quotation goes on.
            continue
    raise ValueError(f"a quotation does not end: {text[:60]}")
