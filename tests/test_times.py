"""Times as RFC 3339 writes them."""

from chalicelib import times
from tests.support.api_service import NOW_MS


def test_rfc3339_and_back() -> None:
    for ms in [-62_135_596_800_000, -1, 0, 1, NOW_MS, 253_402_300_799_999]:
        assert times.parsed_ms(times.rfc3339(ms)) == ms
