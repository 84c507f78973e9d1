"""What is told only now and then."""

from chalicelib.throttle import TELL_EVERY_S, Throttle


def test_one_is_let_through_then_none_for_a_while() -> None:
    throttle = Throttle()
    told = [now_s for now_s in range(100) if throttle.admits(float(now_s))]
    assert told == [0, 30, 60, 90]
    assert TELL_EVERY_S == 30.0


def test_after_a_reset_the_next_is_let_through() -> None:
    throttle = Throttle(5.0)
    assert throttle.admits(1.0)
    assert not throttle.admits(5.9)
    throttle.reset()
    assert throttle.admits(5.9)
    assert not throttle.admits(10.8)
    assert throttle.admits(10.9)
