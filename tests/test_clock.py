"""The clock of the operating system."""

from chalicelib.clock import SystemClock, pause


def test_system_clock_moves_on() -> None:
    clock = SystemClock()
    before_ms, before_s = clock.now_ms(), clock.monotonic_s()
    pause(0.002)
    assert clock.now_ms() > before_ms
    assert clock.monotonic_s() > before_s
