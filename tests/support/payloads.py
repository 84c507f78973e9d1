"""A handler that takes many kinds of values, and payloads of all sorts for it."""

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

from hypothesis import strategies as st
from msgspec import Meta, Struct

from chalicelib.task_types import Run

Instant = Annotated[datetime, Meta(tz=True)]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(Struct, forbid_unknown_fields=True):
    name: str
    count: int = 1


async def paint(
    run: Run,
    *,
    when: Instant,
    colour: Colour,
    size: float = 1.0,
    items: list[Item] | None = None,
    rest: Any = None,
) -> str:
    return ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_INSTANTS = st.datetimes(timezones=st.just(UTC))
FITTING = st.fixed_dictionaries(
    {"when": _INSTANTS.map(datetime.isoformat), "colour": st.sampled_from(["red", "blue"])},
    optional={
        "size": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        "items": st.lists(
            st.fixed_dictionaries({"name": st.text()}, optional={"count": st.integers()})
        ),
        "rest": _JSON,
    },
)
"""Payloads that `paint` takes, but for a NaN or an infinity in `rest`."""
_NAMES = ["when", "colour", "size", "items", "rest", "` - at `$.a[...].b", "` - at `key` in `$"]
ANY = FITTING | st.dictionaries(st.sampled_from(_NAMES) | st.text(), _JSON, max_size=4) | _JSON
"""These and whatever else a client may send."""
