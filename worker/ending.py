"""The signals that ask a process of the service to end in good order."""

import signal


def ending_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT and SIGHUP; the last one not where it is ignored, as nohup has it."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
