"""Task types for the page: a payload with all kinds of controls, and errors that hold markup.

Only processes of the service import this: to import is to register.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from chalicelib.task_types import Run, handles
from tests.browser.service import MARKUP

NO_TAGS: list[str] = []


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@handles("Paint")
async def paint(
    run: Run,
    *,
    colour: Colour,
    size: Annotated[int, Meta(ge=1, le=10)],
    title: str = "untitled",
    is_framed: bool = False,
    since: Annotated[datetime, Meta(tz=True)] | None = None,
    tags: list[str] = NO_TAGS,
) -> str:
    return f"{title} {colour} {size} {is_framed} {since} {tags}"


@handles("Mending")
async def mending(run: Run, *, note: str = "") -> str:
    """Fails for good, and is completed when it is run again."""
    if run.task.attempt <= 3:
        raise ValueError(f"not yet {MARKUP}")
    return f"mended {MARKUP}"
