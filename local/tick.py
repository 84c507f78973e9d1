"""One tick, called as Lambda calls it, by the event that EventBridge sends every minute."""

import signal
import uuid
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from chalicelib.clock import Clock
from worker.ending import ending_signals

TIMEOUT_MS = 60_000
NOTICE_MS = 7_000
"""What is left of the time once the tick is told to end."""


class Context:
    """What a tick sees of Lambda."""

    function_name = "tick"

    def __init__(self, clock: Clock) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._clock = clock
        self._until_s = clock.monotonic_s() + TIMEOUT_MS / 1000

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._until_s - self._clock.monotonic_s()) * 1000))

    def end_soon(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler: the time is over in NOTICE_MS."""
        notice_until_s = self._clock.monotonic_s() + NOTICE_MS / 1000
        self._until_s = min(self._until_s, notice_until_s)


def scheduled_event(now_ms: int) -> dict[str, Any]:
    """EventBridge's event of a rule that fires by the clock."""
    time = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "000000000000",
        "time": time,
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:000000000000:rule/tick"],
        "detail": {},
    }


def run_tick(clock: Clock) -> None:
    """Run the tick of app.py. SIGINT, SIGTERM and SIGHUP make it end within NOTICE_MS."""
    from app import app

    context = Context(clock)
    for number in ending_signals():
        signal.signal(number, context.end_soon)
    app.handler_map["tick"](scheduled_event(clock.now_ms()), context)
