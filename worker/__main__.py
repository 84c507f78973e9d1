"""`python -m worker [--processes N] [--metrics PORT]`: a supervisor and N processes that run tasks.

SIGTERM, SIGINT or SIGHUP drains: no more claims, running tasks end within their deadline, exit 0
within 7 s. A second signal more than 1 s after the first ends at once.
"""

import argparse
import sys

from chalicelib import log
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError
from chalicelib.output import check_descriptors
from chalicelib.processing.ledger import Ledger, no_record
from worker.ending import flush_or_drop
from worker.exposition import Exposition
from worker.life import Life
from worker.supervisor import Supervisor


def main() -> int:
    """Exit code: 0 after a drain, 1 after an end at once, 2 for what cannot be started."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--processes", type=_positive, default=1, metavar="N")
    parser.add_argument("--ledger", metavar="FILE", help="append what is done, as lines of JSON")
    parser.add_argument("--life", metavar="FILE", help="show there each second that all is well")
    parser.add_argument(
        "--metrics", type=_port, metavar="PORT", help="serve /metrics and /healthz there"
    )
    options = parser.parse_args()
    clock = SystemClock()
    exposition: Exposition | None = None
    try:
        check_descriptors()
        log.set_up_apart(clock)
        record = Ledger(options.ledger, clock) if options.ledger else no_record
        settings, life = Settings.from_env(), Life.in_file(options.life, clock)
        if options.metrics is not None:
            exposition = Exposition.open(options.metrics, clock)
        return Supervisor(
            settings, options.processes, clock, life, options.ledger, record, exposition
        ).run()
    except SchedulerError as error:
        print(f"worker: {error}", file=sys.stderr)  # noqa: T201 - not started: no log yet
        return 2
    finally:
        if exposition is not None:
            exposition.end()
        flush_or_drop()


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text!r}: expected an integer from 1 to 256")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
