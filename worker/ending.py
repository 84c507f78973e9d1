"""How a process of the service is asked to end, and ends in good order."""

import ctypes
import os
import signal
import sys
import threading

from chalicelib.clock import pause

PARENT_LOOK_S = 0.2
PR_SET_PDEATHSIG = 1


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


def die_with() -> None:
    """End when the parent does, SIGKILL included: by the kernel, or else by looking."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        pause(PARENT_LOOK_S)
    os._exit(1)
