"""How a process of the service is asked to end, and ends in good order."""

import os
import signal
import sys


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT and SIGHUP; the last one not where it is ignored, as nohup has it."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def flush_or_drop() -> None:
    """Print what is still to be printed, or drop it where nobody takes it, such as a terminal that
    was closed: the interpreter would exit with code 120 for it.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed at the start.
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
