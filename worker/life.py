"""Sign of life: the supervisor writes it while its processes live; `python -m worker.life FILE`
exits 0 if it is fresh. It stands in a file since whoever looks at a container from outside asks
by a command, and says nothing of the store: a worker that waits for it lives.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Self

from chalicelib.clock import Clock, SystemClock
from chalicelib.errors import InvalidSetting

log = logging.getLogger(__name__)

FRESH_S = 10.0
SHOW_EVERY_S = 1.0


class Life:
    """Shows the sign in an open file, whose number is `file`; with None, nowhere."""

    def __init__(self, file: int | None, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._shown_s = float("-inf")
        self._is_lost = False

    @classmethod
    def in_file(cls, name: str | None, clock: Clock) -> Self:
        """Raises InvalidSetting if it cannot be written."""
        if name is None:
            return cls(None, clock)
        try:
            return cls(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644), clock)
        except OSError as error:
            message = f"--life {name}: it cannot be written ({error.strerror})"
            raise InvalidSetting(message) from error

    def show(self) -> None:
        """All is well now."""
        now_s = self._clock.monotonic_s()
        if self._file is not None and now_s - self._shown_s >= SHOW_EVERY_S:
            self._shown_s = now_s
            self._write(f"{now_s:020.3f}".encode())

    def _write(self, sign: bytes) -> None:
        """Who cannot show its life lives on."""
        assert self._file is not None
        why = None
        try:
            os.pwrite(self._file, sign, 0)
        except OSError as error:
            why = error.strerror
        was_lost, self._is_lost = self._is_lost, why is not None
        if self._is_lost and not was_lost:
            text, extra = "the sign of life cannot be written: %s", {"action": "life_lost"}
            log.warning(text, why, extra=extra)
        elif was_lost and not self._is_lost:
            log.info("the sign of life is written again", extra={"action": "life_shown"})


def is_fresh(file: Path, clock: Clock) -> bool:
    """Whether life was shown within FRESH_S, by the clock that all processes share."""
    try:
        shown_s = float(file.read_text())
    except (OSError, ValueError):
        return False
    return 0.0 <= clock.monotonic_s() - shown_s <= FRESH_S


if __name__ == "__main__":
    sys.exit(not is_fresh(Path(sys.argv[1]), SystemClock()))
