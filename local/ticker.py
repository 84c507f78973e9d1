"""The minute tick alone, beside workers and an API that others run."""

import sys
import time
from collections.abc import Mapping

from chalicelib.clock import Clock
from chalicelib.config import Settings
from local.processes import LOOK_EVERY_S, Repeated, Signals, Supervisor
from worker.life import Life

GRACE_S = 8.0
"""Ticks promise to end within 7 s."""


def ticking(env: Mapping[str, str], clock: Clock) -> Repeated:
    """A tick each minute, as EventBridge does it."""
    command = [sys.executable, "-m", "local", "tick"]
    return Repeated("tick", command, env, clock, prints_tasks=True, grace_s=GRACE_S)


def run_ticker(env: Mapping[str, str], clock: Clock) -> None:
    """Tick until SIGINT, SIGTERM or SIGHUP.

    LIFE_FILE names a file for a sign of life, shown while no tick has failed since the last one
    that ended well. Raises InvalidSetting.
    """
    Settings.from_env(env)
    life = Life.in_file(env.get("LIFE_FILE"), clock)
    signals = Signals(clock)
    signals.install()
    supervisor, tick = Supervisor(signals, clock), ticking(env, clock)
    try:
        supervisor.start(tick)
        while not signals.stopping:
            tick.look()
            if not tick.has_failed:
                life.show()
            time.sleep(LOOK_EVERY_S)
    finally:
        supervisor.end()
