"""`python -m local run`: everything. `tables`: create them, elsewhere. `tick`: one tick.
`ticker`: one each minute.
`verify`: whether the promise was kept. `task`: create, show, list, retry, delete, watch and explain
tasks.
These two tell more by `python -m local verify --help`, `python -m local task --help`.
"""

import argparse
import os
import sys

from chalicelib import log
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import SchedulerError
from chalicelib.output import check_descriptors
from local.processes import say
from local.settings import LocalSettings
from worker.ending import flush_or_drop


def main() -> int:
    if sys.argv[1:2] == ["verify"]:
        return _verify(sys.argv[2:])
    if sys.argv[1:2] == ["task"]:
        return _task(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("command", choices=["run", "tables", "tick", "ticker", "verify", "task"])
    command = parser.parse_args().command
    try:
        check_descriptors()
        log.set_up_apart(SystemClock())
        _do(command)
    except SchedulerError as error:
        say(str(error))
        return 1
    finally:
        flush_or_drop()
    return 0


def _verify(arguments: list[str]) -> int:
    from local import verify

    log.set_up()
    return verify.main(arguments)


def _task(arguments: list[str]) -> int:
    from local import tasks

    return tasks.main(arguments)


def _do(command: str) -> None:
    # Imported here because each is slow and none needs the other.
    if command == "run":
        settings = LocalSettings.from_env()
        from local.run import run

        run(settings, SystemClock())
    elif command == "tables":
        from local.run import create_tables

        create_tables(Settings.from_env(), SystemClock())
    elif command == "ticker":
        from local.ticker import run_ticker

        run_ticker(os.environ, SystemClock())
    else:
        from local.tick import run_tick

        run_tick(SystemClock())


if __name__ == "__main__":
    sys.exit(main())
