"""`python -m tests.faults.tick_process SECONDS LEDGER`: a tick with so long until its end."""

import sys

from chalicelib import log
from chalicelib.clock import SystemClock
from chalicelib.processing import tick
from chalicelib.processing.ledger import Ledger


def main(seconds: float, path: str) -> None:
    log.set_up()
    clock = SystemClock()
    until_s = clock.monotonic_s() + seconds
    tick.run(lambda: (until_s - clock.monotonic_s()) * 1000, record=Ledger(path, clock))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
