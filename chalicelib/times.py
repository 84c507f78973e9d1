"""RFC 3339 times, to and from milliseconds since the epoch."""

import datetime
import functools
import re

TIME_EXPECTED = "an RFC 3339 time with an offset, such as 2030-01-31T12:00:00Z"
REAL_TIME_EXPECTED = f"{TIME_EXPECTED}, of a real date in the years 0001 to 9999 of UTC"

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - UTC throughout, and years beyond 9999 fail
_MILLISECOND = datetime.timedelta(milliseconds=1)


class InvalidTime(ValueError):
    """Says what the text is. expected: what it should be."""

    def __init__(self, message: str, expected: str = TIME_EXPECTED) -> None:
        super().__init__(message)
        self.expected = expected


def parsed_ms(text: str) -> int:
    """Milliseconds since the epoch, rounded up, so that no task is early. Raises InvalidTime."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidTime("not a time with an offset")
    if found[6] == "60":
        raise InvalidTime("a leap second: unsupported")
    try:
        ms = _ms_of(found)
        rfc3339(ms)
    except (ValueError, OverflowError):
        raise InvalidTime("no possible time", REAL_TIME_EXPECTED) from None
    return ms


@functools.lru_cache(maxsize=4_096)
def rfc3339(ms: int) -> str:
    """In UTC, with milliseconds. Raises OverflowError beyond the years 0001 to 9999."""
    moment = _EPOCH + datetime.timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _ms_of(found: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (int(found[n]) for n in range(1, 7))
    local = datetime.datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
    offset_min = 0
    if found[8]:
        offset = datetime.time(int(found[9]), int(found[10]))
        offset_min = (offset.hour * 60 + offset.minute) * (1 if found[8] == "+" else -1)
    fraction = found[7] or ""
    ms = int(fraction[:3].ljust(3, "0")) + bool(fraction[3:].strip("0"))
    return (local - _EPOCH) // _MILLISECOND - offset_min * 60_000 + ms
