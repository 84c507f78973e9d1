"""Expected failures, in words."""

from chalicelib.errors import SchedulerError, TaskNotFound


def test_error_speaks_for_itself() -> None:
    assert str(TaskNotFound(id="x")) == "There is no such task."
    assert TaskNotFound(id="x").details == {"id": "x"}
    assert str(SchedulerError("words")) == "words"
