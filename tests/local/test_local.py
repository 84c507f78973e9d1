"""`make run`: settings, installation, processes, and the whole service started for real."""

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task, TaskState
from local import engine, tick
from local.processes import Program, Repeated, Signals, StartFailed, Stopping, Supervisor
from local.run import _data_is_ours
from local.settings import ROOT, LocalSettings
from tests.conftest import free_port
from tests.support.engine import Engine
from tests.support.fakes import NOON_MS, FakeClock
from tests.support.front import HOSTS, Front, front, permission_check
from worker.ending import ending_signals

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def wait_for(what: Callable[[], object], seconds: float = 10.0) -> None:
    clock = SystemClock()
    until_s = clock.monotonic_s() + seconds
    while not what():
        assert clock.monotonic_s() < until_s
        Event().wait(0.05)


# Settings


def test_settings_default_to_one_worker_and_a_tick() -> None:
    assert LocalSettings.from_env({"PORT": ""}) == LocalSettings()
    assert LocalSettings().url == "http://127.0.0.1:8000"
    assert LocalSettings().data == ROOT / ".data"


def test_settings_are_read() -> None:
    env = {"PORT": "80", "ENGINE_PORT": "81", "WORKERS": "0", "TICK": "off", "DATA": "/tmp/d"}
    settings = LocalSettings.from_env(env | {"ENGINE": "https://store:8043/"})
    assert settings == LocalSettings(
        port=80,
        engine_port=81,
        workers=0,
        tick=False,
        engine="https://store:8043",
        data=Path("/tmp/d"),
    )
    assert settings.engine_is_elsewhere


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "http", "1 to 65535"),
        ("PORT", "0", "1 to 65535"),
        ("PORT", "8001", "must differ"),
        ("ENGINE_PORT", "65536", "1 to 65535"),
        ("ENGINE_PORT", "²", "1 to 65535"),
        ("WORKERS", "-1", "0 to 64"),
        ("TICK", "yes", "on or off"),
        ("ENGINE", "postgres", "auto, embedded, docker or a URL"),
        ("ENGINE", "http://[", "auto, embedded, docker or a URL"),
    ],
)
def test_a_bad_setting_is_named_with_what_was_expected(name: str, text: str, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{name}.*{expected}"):
        LocalSettings.from_env({name: text})


def test_a_taken_port_is_refused_under_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSetting, match=f"PORT={port}: .*in use"):
            engine.must_be_free("PORT", port)
    engine.must_be_free("PORT", port)


def test_data_must_be_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(InvalidSetting, match=r"DATA=.*cannot be used"),
            _data_is_ours(LocalSettings(data=data)),
        ):
            pass


def test_data_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    settings = LocalSettings(data=tmp_path / "new")
    with (
        _data_is_ours(settings),
        pytest.raises(InvalidSetting, match="another run"),
        _data_is_ours(settings),
    ):
        pass
    with _data_is_ours(settings):
        pass


# Installation


class Checkout:
    """What the installation reads, beside a PATH on which nothing else is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        (folder / "local").mkdir()
        self.bin.mkdir()
        shutil.copy(ROOT / "local" / "install.sh", folder / "local")
        for name in ("requirements.txt", "requirements-dev.txt", "package-lock.json"):
            (folder / name).write_text("1\n")
        for name in ("sh", "dirname", "cat", "cmp", "cp", "uname", "mkdir", "chmod"):
            (self.bin / name).symlink_to(shutil.which(name) or name)

    def program(self, name: str, script: str) -> None:
        """Put a program on the PATH that notes its call and runs `script`."""
        path = self.bin / name
        path.write_text(f'#!{self.bin}/sh\necho "{name} $*" >>"{self.folder}/calls"\n{script}\n')
        path.chmod(0o755)

    def install(self, what: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self.bin / "sh"), "local/install.sh", what]
        env = {"PATH": str(self.bin)}
        run = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)
        assert run.stdout == ""
        return run

    def calls(self) -> list[str]:
        """The calls since the last look."""
        path = self.folder / "calls"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return calls


PYTHON = """
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; rm -f .venv/installed ;;
"-m pip") exit "${PIP_FAILS:-0}" ;;
"-V ") echo Python 3.11.2 ;;
esac
"""
NPM = "mkdir -p node_modules/@dynoxide/here; echo >node_modules/@dynoxide/here/dynoxide"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_packages_are_installed_once_and_again_after_a_change(checkout: Checkout) -> None:
    checkout.program("python3", PYTHON)
    (checkout.bin / "rm").symlink_to(shutil.which("rm") or "rm")
    for _ in range(2):
        checkout.calls()
        assert checkout.install("packages").returncode == 0
    assert checkout.calls() == ["python3 -V"]
    (checkout.folder / "requirements.txt").write_text("2\n")
    assert checkout.install("packages").returncode == 0
    assert any("-m pip install" in call for call in checkout.calls())


def test_an_interrupted_installation_of_packages_is_done_again(checkout: Checkout) -> None:
    checkout.program("python3", PYTHON.replace("${PIP_FAILS:-0}", "1"))
    (checkout.bin / "rm").symlink_to(shutil.which("rm") or "rm")
    failed = checkout.install("packages")
    assert failed.returncode != 0
    assert "pip could not install requirements-dev.txt" in failed.stderr
    checkout.program("python3", PYTHON)
    assert checkout.install("packages").returncode == 0
    assert any("-m venv --clear .venv" in call for call in checkout.calls())


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (None, "python3 is missing"),
        ('[ "$1" = -V ] && echo Python 3.9.2; [ "$1" != -c ]', "Python 3.9.2 is too old; 3.11"),
        ('case "$2" in *ensurepip*) exit 1 ;; esac', "apt-get install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_named(
    checkout: Checkout, script: str | None, line: str
) -> None:
    if script:
        checkout.program("python3", script)
    failed = checkout.install("packages")
    assert failed.returncode != 0
    assert line in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_the_engine_is_installed_once_and_again_after_an_interruption(checkout: Checkout) -> None:
    checkout.program("npm", f"{NPM}; chmod +x node_modules/@dynoxide/here/dynoxide")
    assert checkout.install("engine").returncode == 0
    assert len(checkout.calls()) == 1
    assert checkout.install("engine").returncode == 0
    assert checkout.calls() == []
    (checkout.folder / "node_modules" / "installed").unlink()
    assert checkout.install("engine").returncode == 0
    assert len(checkout.calls()) == 1


def test_an_engine_on_the_path_needs_no_npm(checkout: Checkout) -> None:
    checkout.program("dynoxide", "")
    assert checkout.install("engine").returncode == 0


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (None, "apt-get install npm"),
        ("exit 1", "npm could not install"),
        ("", "npm brought no engine for"),
    ],
)
def test_an_engine_that_cannot_be_had_is_told(
    checkout: Checkout, script: str | None, line: str
) -> None:
    if script is not None:
        checkout.program("npm", script)
    failed = checkout.install("engine")
    assert failed.returncode != 0
    assert line in failed.stderr.splitlines()[-1]
    assert checkout.install("engine").returncode != 0


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (ROOT / "package-lock.json").read_text()
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    wanted = json.loads((ROOT / "package.json").read_text())["optionalDependencies"]
    assert {f"node_modules/{name}": version for name, version in wanted.items()} == {
        path: package["version"] for path, package in lock.items() if path
    }


def test_every_requirement_is_pinned_and_lambda_gets_no_chalice() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text().splitlines()
        packages = [line for line in lines if line and not line.startswith(("#", "-r"))]
        assert all("==" in line for line in packages)
    assert "chalice==" not in (ROOT / "requirements.txt").read_text()


# Processes


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def program(clock: FakeClock, code: str, kind: type[Program] = Program) -> Program:
    command = [sys.executable, "-c", code]
    return kind("the program", command, os.environ, clock, is_apart=True, grace_s=5.0)


LASTING = "import signal; signal.pause()"


def test_a_program_that_ends_starts_again_after_a_growing_wait(
    clock: FakeClock, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = program(clock, "raise SystemExit(3)")
    failing.start()
    for wait in ("0.5", "1", "2"):
        wait_for(lambda: not failing.is_running)
        failing.look()
        line = f"local: the program ended with exit code 3; it starts again in {wait} s\n"
        assert capfd.readouterr().err == line
        failing.look()
        assert not failing.is_running
        clock.tick(float(wait))
        failing.look()
    failing.kill()
    clock.tick(31)
    failing.look()
    assert "again in 0.5 s" in capfd.readouterr().err


def test_a_tick_runs_every_minute_and_is_ended_at_the_next(
    clock: FakeClock, capfd: pytest.CaptureFixture[str]
) -> None:
    minutely = program(clock, LASTING, Repeated)
    minutely.start()
    first = minutely._process
    minutely.must_run()
    clock.tick(59.9)
    minutely.look()
    assert minutely._process is first
    clock.tick(0.1)
    minutely.look()
    assert minutely._process is not first
    assert minutely.is_running
    assert "took longer than 60 s" in capfd.readouterr().err
    minutely.kill()


def test_waiting_ends_when_a_program_dies(clock: FakeClock) -> None:
    supervisor = Supervisor(Signals(clock), clock)
    supervisor.start(program(clock, "raise SystemExit(3)"))
    with pytest.raises(StartFailed, match="the program ended with exit code 3 while"):
        supervisor.wait_until(lambda: False, "it", 60)


def test_a_program_that_is_not_there_is_named(clock: FakeClock, tmp_path: Path) -> None:
    absent = Program("engine", [str(tmp_path / "absent")], {}, clock, grace_s=1)
    with pytest.raises(StartFailed, match="engine cannot be started"):
        absent.start()


def test_waiting_ends_after_its_limit(clock: FakeClock) -> None:
    def never() -> bool:
        clock.tick(30)
        return False

    with pytest.raises(StartFailed, match="it is not there after 60 s"):
        Supervisor(Signals(clock), clock).wait_until(never, "it", 60)


def test_waiting_ends_when_told_to(clock: FakeClock) -> None:
    signals = Signals(clock)
    signals._note(signal.SIGTERM, None)
    with pytest.raises(Stopping):
        Supervisor(signals, clock).wait_until(lambda: False, "it", 60)


def test_a_second_signal_counts_only_a_second_later(clock: FakeClock) -> None:
    signals = Signals(clock)
    signals._note(signal.SIGINT, None)
    clock.tick(1.0)
    signals._note(signal.SIGTERM, None)
    assert signals.stopping
    assert not signals.in_a_hurry
    clock.tick(0.1)
    signals._note(signal.SIGINT, None)
    assert signals.in_a_hurry


def test_in_a_hurry_who_does_not_end_is_killed(clock: FakeClock, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    ignore = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(deaf)!r}, 'w')"
    stubborn = program(clock, f"import signal; {ignore}; signal.pause()")
    signals = Signals(clock)
    supervisor = Supervisor(signals, clock)
    supervisor.start(program(clock, LASTING), stubborn)
    wait_for(deaf.exists)
    signals.in_a_hurry = True
    supervisor.end()
    assert not stubborn.is_running


@linux_only
@pytest.mark.wall_clock
def test_children_die_with_the_run_even_if_it_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.local.test_local import LASTING, program
from tests.support.fakes import FakeClock
child = program(FakeClock(), LASTING)
child.start()
print(child._process.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as run:
        assert run.stdout
        child = int(run.stdout.readline())
        run.kill()
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def _heed_signals() -> None:
    """Whoever runs the tests may ignore them: a shell in the background, `nohup`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@linux_only
@pytest.mark.wall_clock
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_make_alone_is_seen(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import time; from local.processes import Signals;"
        "from tests.support.fakes import FakeClock; signals = Signals(FakeClock());"
        "print('started', signals.stopping, flush=True);"
        "[time.sleep(0.05) for _ in iter(lambda: signals.stopping, True)]; print('seen')"
    )
    (tmp_path / "Makefile").write_text(f'run:\n\t@exec "{sys.executable}" -c "{code}"\n')
    with subprocess.Popen(
        ["make", "--no-print-directory", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_heed_signals,
    ) as make:
        assert make.stdout
        assert make.stdout.readline() == b"started False\n"
        make.send_signal(number)
        assert make.stdout.read() == b"seen\n"


# The tick


def test_the_tick_gets_what_eventbridge_sends() -> None:
    event = tick.scheduled_event(NOON_MS + 1)
    assert event["detail-type"] == "Scheduled Event"
    assert datetime.fromisoformat(event["time"]) == datetime.fromtimestamp(NOON_MS / 1000, UTC)


def test_the_tick_has_a_minute_less_once_it_is_told_to_end(clock: FakeClock) -> None:
    context = tick.Context(clock)
    assert context.get_remaining_time_in_millis() == 60_000
    clock.tick(1.5)
    assert context.get_remaining_time_in_millis() == 58_500
    context.end_soon(signal.SIGTERM, None)
    assert context.get_remaining_time_in_millis() == tick.NOTICE_MS
    clock.tick(6)
    context.end_soon(signal.SIGTERM, None)
    assert context.get_remaining_time_in_millis() == 1_000
    clock.tick(60)
    assert context.get_remaining_time_in_millis() == 0


# The whole service


class Run:
    """`python -m local run` in a session of its own, so that all its processes can be found."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.port, self.engine_port = free_port(), free_port()
        self.out, self.err = folder / "out", folder / "err"
        settings = {"PORT": str(self.port), "ENGINE_PORT": str(self.engine_port)}
        settings |= {"ENGINE": "embedded", "DATA": str(folder / "data"), "WORKERS": "1"}
        with self.out.open("ab") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local", "run"],
                cwd=ROOT,
                env=os.environ | settings | env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        line = f"ready: http://127.0.0.1:{self.port}\n"
        wait_for(lambda: line in self.err.read_text() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.err.read_text()

    def create(self, delay_s: float = 0.0) -> str:
        send_ts = datetime.fromtimestamp(SystemClock().now_ms() / 1000 + delay_s, UTC)
        body = json.dumps({"type": "Foo", "send_ts": send_ts.isoformat()})
        return str(self.request("POST", "/task", body)["id"])

    def request(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def prints(self, task_id: str) -> bool:
        return f"Foo {task_id}\n" in self.out.read_text()

    def processes(self) -> list[tuple[int, str]]:
        """Whatever still runs in the session: process id and command."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == self.process.pid:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append((int(folder.name), command))
            except (ProcessLookupError, FileNotFoundError):
                continue
        return found

    def end(self) -> int:
        """Send SIGTERM; returns the exit code, with no process left."""
        self.process.terminate()
        code = self.process.wait(20)
        assert self.processes() == []
        return code

    def kill(self) -> None:
        for pid, _ in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start_run(**env: str) -> Run:
        runs.append(Run(tmp_path, **env))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()


@linux_only
@pytest.mark.own_engine
@pytest.mark.wall_clock
def test_one_command_runs_tasks_and_a_restart_loses_none(start: Callable[..., Run]) -> None:
    run = start()
    run.wait_ready()
    now, later = run.create(), run.create(delay_s=8)
    wait_for(lambda: run.prints(now))
    assert run.end() == 0
    assert run.err.read_text().count("ready:") == 1

    again = start()
    again.wait_ready()
    wait_for(lambda: again.prints(later), 20)
    assert again.end() == 0
    lines = again.out.read_text().splitlines()
    assert lines == [f"Foo {now}", f"Foo {later}"]


@linux_only
@pytest.mark.own_engine
@pytest.mark.wall_clock
def test_the_tick_alone_runs_tasks(start: Callable[..., Run]) -> None:
    run = start(WORKERS="0")
    run.wait_ready()
    task = run.create()
    wait_for(lambda: run.prints(task), 20)
    assert run.end() == 0


@linux_only
@pytest.mark.own_engine
@pytest.mark.wall_clock
def test_it_ends_in_time_without_its_engine(start: Callable[..., Run]) -> None:
    run = start(TICK="off")
    run.wait_ready()
    (engine_pid,) = (pid for pid, command in run.processes() if "dynoxide" in command)
    os.kill(engine_pid, signal.SIGKILL)
    assert run.end() == 0


@linux_only
@pytest.mark.own_engine
@pytest.mark.wall_clock
def test_an_engine_that_dies_comes_back_with_its_tasks(start: Callable[..., Run]) -> None:
    run = start(TICK="off")
    run.wait_ready()
    later = run.create(delay_s=4)
    (engine_pid,) = (pid for pid, command in run.processes() if "dynoxide" in command)
    os.kill(engine_pid, signal.SIGKILL)
    wait_for(lambda: run.prints(later), 30)
    assert "engine was ended by SIGKILL; it starts again" in run.err.read_text()


def test_a_store_that_does_not_answer_is_told_in_one_line(start: Callable[..., Run]) -> None:
    run = start(ENGINE=f"http://127.0.0.1:{free_port()}")
    assert run.process.wait(30) == 1
    assert "local: the tables cannot be made ready: " in run.err.read_text().splitlines()[-1]
    assert run.out.read_text() == ""


class Terminal:
    """A terminal with `python -m local run` in it, on a store that outlives both."""

    def __init__(self, engine_url: str, prefix: str) -> None:
        self._screen, theirs = os.openpty()
        env = {
            "ENGINE": engine_url,
            "TABLE_PREFIX": prefix,
            "PORT": str(free_port()),
            "WORKERS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local", "run"],
            cwd=ROOT,
            env=os.environ | env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def wait_ready(self) -> None:
        shown = b""
        while b"ready: " not in shown:
            shown += os.read(self._screen, 4096)

    def close(self) -> None:
        """The kernel sends SIGHUP to all in the foreground, and takes what they print no more."""
        os.close(self._screen)


@linux_only
@pytest.mark.wall_clock
def test_a_terminal_that_is_closed_drains_the_run(
    engine: Engine, client: Client, settings: Settings
) -> None:
    clock = SystemClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix)
    terminal = Terminal(engine.settings.endpoints[0], settings.table_prefix)
    try:
        terminal.wait_ready()
        ids = [str(uuid.uuid4()) for _ in range(3)]
        for id in ids:
            now_ms = clock.now_ms()
            store.create(Task.new(id=id, type="Foo", send_ts_ms=0, now_ms=now_ms, token=id))
        wait_for(lambda: {store.get(id).state for id in ids} == {TaskState.RUNNING})
        terminal.close()
        assert terminal.process.wait(10) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
    assert [(store.get(id).state, store.get(id).attempt) for id in ids] == [("completed", 1)] * 3


@linux_only
@pytest.mark.wall_clock
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_what_is_sent_to_all_does_not_end_a_handler_apart(number: int) -> None:
    code = f"""
import asyncio, os, random, signal
from chalicelib.task_types import Run
from chalicelib.processing.isolation import IsolatedProcess
from tests.support.fakes import Ids, new_task

async def main():
    isolated = await IsolatedProcess.start(Run(task=new_task(Ids()), rng=random.Random()))
    os.killpg(0, {int(number)})
    print(await isolated.line())

if __name__ == "__main__":
    signal.signal({int(number)}, lambda *_: None)
    asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.stdout.startswith("Baz "), run.stderr


def test_what_a_closed_terminal_does_not_take_costs_no_exit_code() -> None:
    code = """
import os
from local.processes import say
from worker.ending import flush_or_drop
screen, ours = os.openpty()
os.dup2(ours, 2)
os.close(screen)
say("into the void")
flush_or_drop()
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_hangup_is_heeded_unless_it_is_to_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    assert signal.SIGHUP in ending_signals()
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    assert ending_signals() == (signal.SIGTERM, signal.SIGINT)


# The store of somebody else, by a role that may read and write and no more


def make_tables(nodes: Front, settings: Settings) -> "subprocess.CompletedProcess[str]":
    """`python -m local tables`, until it ends."""
    env = {"ALTERNATOR_ENDPOINTS": nodes.url(), "TABLE_PREFIX": settings.table_prefix}
    command = [sys.executable, "-m", "local", "tables"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def nodes(engine: Engine) -> Iterator[Front]:
    with front(engine.settings, HOSTS[0]) as nodes:
        nodes.lists[HOSTS[0]] = [HOSTS[0]]
        nodes.check = permission_check({"SELECT", "MODIFY"})
        yield nodes


@linux_only
@pytest.mark.wall_clock
def test_tables_that_are_there_need_no_permission_to_create_any(
    nodes: Front, client: Client, settings: Settings, start: Callable[..., Run]
) -> None:
    done = make_tables(nodes, settings)
    assert (done.returncode, done.stderr) == (0, "")
    run = start(ENGINE=nodes.url(), TABLE_PREFIX=settings.table_prefix)
    run.wait_ready()
    task = run.create()
    wait_for(lambda: run.prints(task), 20)
    assert run.end() == 0


@pytest.mark.own_tables
@pytest.mark.wall_clock
def test_permission_to_create_tables_that_is_missing_is_told_as_such(
    nodes: Front, settings: Settings
) -> None:
    done = make_tables(nodes, settings)
    assert done.returncode == 1
    what = "role may not do this: CREATE access is denied to role scheduler"
    assert f"the tables cannot be made ready: the store's {what}" in done.stderr
    assert "SECRET" not in done.stderr
