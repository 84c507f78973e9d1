"""Log lines; how they leave stands in processing/test_output.py."""

import json
import logging

import pytest

from chalicelib import log
from tests.support.fakes import FakeClock


def test_log_lines_are_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    root.handlers.clear()  # Else they are closed, and tell what they had held back.
    try:
        log.set_up()
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("part").exception("it %s", "broke", extra={"action": "broken"})
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    printed = capsys.readouterr()
    line = json.loads(printed.err)
    assert printed.out == ""
    assert (line["message"], line["action"], line["level"]) == ("it broke", "broken", "error")
    assert "ValueError: why" in line["exception"]


def test_lines_about_writes_are_not_summed() -> None:
    repeats = log.Repeats(FakeClock())
    for action, whole in (("write", 50), ("refused", log.WHOLE_MAX)):
        record = logging.makeLogRecord({"name": "api", "msg": "%s", "action": action})
        assert sum(repeats.admits(record) for _ in range(50)) == whole
