"""`python -m tests.faults.flood PORT RATE SECONDS FILE`: so many datagrams a second to this port.

In turn, noise and the messages of the file, which stand there as lines of hexadecimal digits.
"""

import os
import sys
import threading
from pathlib import Path

from chalicelib.clock import SystemClock
from chalicelib.wakeups.sender import Sockets

PAUSE_S = 0.002
NOISE_BYTES = 150


def main(port: int, rate: int, seconds: float, file: Path) -> None:
    messages = [bytes.fromhex(line) for line in file.read_text().split()]
    clock, sockets, sent = SystemClock(), Sockets(), 0
    began_s = clock.monotonic_s()
    while (passed_s := clock.monotonic_s() - began_s) < seconds:
        for number in range(sent, round(passed_s * rate)):
            noise = os.urandom(NOISE_BYTES)
            is_replay = number % 2 and messages
            sockets(messages[number % len(messages)] if is_replay else noise, ("127.0.0.1", port))
            sent += 1
        threading.Event().wait(PAUSE_S)
    sockets.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
