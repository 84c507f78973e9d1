"""Lines, logs and other files that do not take what is written to them."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib import log
from chalicelib.clock import SystemClock
from chalicelib.output import STALLED_AFTER_S, Lines, Outlet, TextOutlet
from chalicelib.processing.ledger import Ledger
from local.settings import ROOT
from tests.support.fakes import FakeClock
from worker.life import Life

CLOCK = SystemClock()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of 4 KiB: where to read, and where to write."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for end in ends:
        os.close(end)


class Disk:
    """Takes three bytes a write, and after each fails so often."""

    def __init__(self, failures: int = 0, error: int = errno.ENOSPC) -> None:
        self.content = b""
        self._failures = failures
        self._error = error
        self._left = 0

    def write(self, descriptor: int, piece: memoryview) -> int:
        if self._left:
            self._left -= 1
            raise OSError(self._error, "")
        self._left = self._failures
        self.content += bytes(piece[:3])
        return min(3, len(piece))


def empty(pipe: tuple[int, int], outlet: Outlet) -> None:
    """Its thread must not write to a descriptor that others have by then."""
    os.set_blocking(pipe[0], False)
    while not outlet.flush(0.01):
        with contextlib.suppress(BlockingIOError):
            os.read(pipe[0], 4096)


def test_a_line_is_written_at_once(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], CLOCK)
    Lines(outlet, CLOCK)("Baz 1")
    assert outlet.flush(5)
    assert os.read(pipe[0], 100) == b"Baz 1\n"


def test_what_was_cut_is_finished_before_the_next_begins() -> None:
    disk = Disk(failures=2)
    outlet = Outlet(1, CLOCK, write=disk.write, sleep=lambda seconds: None)
    for number in range(50):
        outlet.put(f"Baz {number}\n".encode())
    assert outlet.flush(5)
    assert disk.content.decode().splitlines() == [f"Baz {number}" for number in range(50)]
    assert outlet.lost == 0
    assert outlet.why == os.strerror(errno.ENOSPC)


def test_what_can_never_leave_is_counted() -> None:
    outlet = Outlet(1, CLOCK, write=Disk(100, errno.EPIPE).write)
    outlet.put(b"Foo\n")
    outlet.flush(5)
    outlet.put(b"Bar\n")
    outlet.put(b"Baz\n")
    outlet.flush(5)
    assert (outlet.lost, outlet.waiting) == (3, 0)


def test_nobody_waits_for_a_reader_that_stalls(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], CLOCK)
    lines = [b"%04d" % number + b"x" * 95 + b"\n" for number in range(200)]
    for line in lines:
        outlet.put(line)
    assert not outlet.flush(STALLED_AFTER_S + 0.1)
    assert outlet.is_stalled
    assert outlet.waiting > 100
    read = b""
    while len(read) < 20_000:
        read += os.read(pipe[0], 4096)
    assert outlet.flush(5)
    assert not outlet.is_stalled
    assert read == b"".join(lines)


def test_what_has_no_room_to_wait_is_counted(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], CLOCK, room=10)
    for _ in range(20):
        outlet.put(b"x" * 4096)
    assert outlet.lost > 0
    assert outlet.waiting <= 10
    empty(pipe, outlet)


CUTTING = """
import os, sys
from chalicelib.clock import SystemClock
from chalicelib.output import Outlet

def cut(descriptor, piece):
    return os.write(descriptor, piece[:3])

outlet = Outlet(1, SystemClock(), write=cut)
for number in range(200):
    outlet.put((sys.argv[1] * 20 + "\\n").encode())
assert outlet.flush(20)
"""


def test_processes_that_share_a_file_do_not_write_into_each_others_lines(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        writers = [
            subprocess.Popen([sys.executable, "-c", CUTTING, name], stdout=out, cwd=ROOT)
            for name in "ab"
        ]
        assert [writer.wait(30) for writer in writers] == [0, 0]
    lines = (tmp_path / "out").read_text().splitlines()
    assert sorted(lines) == ["a" * 20] * 200 + ["b" * 20] * 200


def test_lines_that_do_not_leave_are_told_once_and_when_it_is_over(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outlet = Outlet(pipe[1], CLOCK)
    lines = Lines(outlet, CLOCK)
    for _ in range(3):
        lines("x" * 4000)
    outlet.flush(STALLED_AFTER_S + 0.1)
    assert lines.is_held_up()
    for _ in range(3):
        lines.look()
    for _ in range(3):
        os.read(pipe[0], 4096)
        outlet.flush(0.2)
    assert not lines.is_held_up()
    lines.look()
    lines.look()
    actions = [vars(record)["action"] for record in caplog.records]
    assert actions == ["output_stalled", "output_flows"]


def test_lines_that_cannot_be_printed_are_told_as_a_count(
    caplog: pytest.LogCaptureFixture, pipe: tuple[int, int]
) -> None:
    broken = Outlet(1, CLOCK, write=Disk(100, errno.EPIPE).write)
    lines = Lines(broken, CLOCK)
    for _ in range(3):
        lines("Baz")
    broken.flush(5)
    lines.look()
    lines("Baz")
    broken.flush(5)
    lines.look()
    lines.close(1)
    outlet = Outlet(pipe[1], CLOCK)
    stuck = Lines(outlet, CLOCK)
    for _ in range(5):
        stuck("x" * 4000)
    stuck.close(0.1)
    empty(pipe, outlet)
    assert [vars(record)["lines"] for record in caplog.records] == [3, 4, 4]


def test_print_waits_for_nobody(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], CLOCK)
    text = TextOutlet(outlet)
    print("one", "two", file=text)
    print("no line yet", end="", file=text, flush=True)
    print(" now it is \ud800", file=text)
    assert outlet.flush(5)
    assert os.read(pipe[0], 100) == b"one two\nno line yet now it is \\ud800\n"


# Logs


def logged(clock: FakeClock, pipe: tuple[int, int]) -> tuple[logging.Logger, log.Handler]:
    handler = log.Handler(clock, Outlet(pipe[1], CLOCK, log.WAITING_MAX))
    logger = logging.Logger("part")
    logger.addHandler(handler)
    return logger, handler


def read_lines(pipe: tuple[int, int]) -> list[dict[str, object]]:
    os.set_blocking(pipe[0], False)
    return [json.loads(line) for line in os.read(pipe[0], 65_536).splitlines()]


def test_a_cause_gets_a_line_not_each_task(pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 65_536)
    clock = FakeClock()
    logger, handler = logged(clock, pipe)
    for number in range(600):
        logger.warning("left: %s", number, extra={"action": "left", "task_id": str(number)})
    logger.warning("something else", extra={"action": "other"})
    clock.tick(log.WITHIN_S)
    handler.look()
    logger.warning("left: %s", 600, extra={"action": "left"})
    handler.close()
    lines = read_lines(pipe)
    assert [line["message"] for line in lines] == [
        *(f"left: {number}" for number in range(10)),
        "something else",
        "590 more like this in 10 s, the last: left: 599",
        "left: 600",
    ]
    assert (lines[11]["action"], lines[11]["task_id"], lines[11]["repeated"]) == (
        "left",
        "599",
        590,
    )


def test_what_was_held_back_is_told_at_the_end(pipe: tuple[int, int]) -> None:
    logger, handler = logged(FakeClock(), pipe)
    for _ in range(12):
        logger.warning("again")
    handler.close()
    assert read_lines(pipe)[-1]["message"] == "2 more like this in 0 s, the last: again"


def test_log_lines_that_were_lost_are_counted(pipe: tuple[int, int]) -> None:
    clock = FakeClock()
    logger, handler = logged(clock, pipe)
    for number in range(log.WAITING_MAX + 100):
        logger.warning("full", extra={"action": number, "text": "x" * 4_000})
    read = b""
    while b'"action": 999' not in read or not read.endswith(b"\n"):
        read += os.read(pipe[0], 65_536)
    logger.warning("on")
    handler.close()
    line, last = read_lines(pipe)[-2:]
    assert line["action"] == "log_lost"
    assert 95 <= int(str(line["message"]).split()[0]) <= 100
    assert last["message"] == "on"


# Other files


def test_a_ledger_on_a_full_disk_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    ledger = Ledger("/dev/full", clock)
    for _ in range(5):
        ledger("slow", None)
    clock.tick(31)
    ledger("slow", None)
    ledger.close()
    assert ledger.lost == 6
    assert [vars(record)["events"] for record in caplog.records] == [1, 6]


def test_a_ledger_in_a_pipe_that_nobody_reads_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger")
    reader = os.open(tmp_path / "ledger", os.O_RDONLY | os.O_NONBLOCK)
    ledger = Ledger(str(tmp_path / "ledger"), CLOCK)
    for _ in range(2_000):
        ledger("slow", None, text="x" * 100)
    assert ledger.lost > 0
    ledger.close()
    os.close(reader)


def test_a_sign_of_life_on_a_full_disk_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    life = Life.in_file("/dev/full", clock)
    for _ in range(5):
        clock.tick(2)
        life.show()
    assert [vars(record)["action"] for record in caplog.records] == ["life_lost"]


def worker(*, shell: str) -> "subprocess.CompletedProcess[str]":
    command = f"{sys.executable} -m worker {shell}"
    env = os.environ | {"ALTERNATOR_ENDPOINTS": "http://127.0.0.1:1"}
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=20
    )


@pytest.mark.parametrize(
    ("shell", "why"),
    [(">&-", "it is closed"), ("1</dev/null", "it cannot be written"), ("<&- >&-", "it is closed")],
)
def test_a_worker_does_not_start_without_a_standard_output(shell: str, why: str) -> None:
    ended = worker(shell=shell)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"worker: standard output: {why}")


def test_a_ledger_that_cannot_be_opened_is_named_at_the_start(tmp_path: Path) -> None:
    ended = worker(shell=f"--ledger {tmp_path}/no/ledger")
    assert ended.returncode == 2
    assert "ledger: it cannot be written (No such file or directory)" in ended.stderr
