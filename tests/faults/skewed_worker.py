"""A worker whose wall clock is wrong by SKEW_MS, from SKEW_AFTER_S on."""

import os
import sys

from chalicelib.clock import SystemClock
from worker import __main__ as entry
from worker import child

SKEW_MS = int(os.environ["SKEW_MS"])
FROM_S = SystemClock().monotonic_s() + float(os.environ.get("SKEW_AFTER_S", "0"))


class SkewedClock(SystemClock):
    def now_ms(self) -> int:
        is_wrong = self.monotonic_s() >= FROM_S
        return super().now_ms() + (SKEW_MS if is_wrong else 0)


if __name__ == "__main__":
    for module in (entry, child):
        vars(module)["SystemClock"] = SkewedClock
    sys.exit(entry.main())
