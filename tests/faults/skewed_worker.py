"""A worker whose wall clock is wrong by SKEW_MS."""

import os
import sys

from chalicelib.clock import SystemClock
from worker import __main__ as entry
from worker import child

SKEW_MS = int(os.environ["SKEW_MS"])


class SkewedClock(SystemClock):
    def now_ms(self) -> int:
        return super().now_ms() + SKEW_MS


if __name__ == "__main__":
    for module in (entry, child):
        vars(module)["SystemClock"] = SkewedClock
    sys.exit(entry.main())
