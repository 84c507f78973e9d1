"""`python -m local task create|show|list|retry|delete|watch|explain|stats`, from a command line.

SCHEDULER_URL tells where the API is (default http://127.0.0.1:8000). SCHEDULER_KEY holds an API
key, if it asks for one, or SCHEDULER_KEY_FILE names a file that does. Exit code: 0 done, 1 not
found, not allowed or failed, 2 wrong usage, 3 the service does not answer.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, get_args
from urllib.parse import urlsplit

import requests

from chalicelib.clock import Clock, Sleep, SystemClock, pause
from chalicelib.env import secret_line
from chalicelib.errors import InvalidSetting
from client.answers import Attempt, Step, Task
from client.scheduler_client import ApiError, SchedulerClient, Unavailable, rfc3339
from local import stats
from local.processes import say

URL = "http://127.0.0.1:8000"
DONE, FAILED, USAGE, UNAVAILABLE = range(4)
LOOK_AGAIN_S = 0.25
LOOK_AGAIN_MAX_S = 10.0
COLUMNS = ("id", "type", "state", "send_ts", "attempt", "lateness_ms", "result")
LEAST_WIDTHS = {"state": 9, "outcome": 10}
"""So that the lines of a task whose state changes stand below each other."""
ATTEMPT_COLUMNS = ("attempt", "outcome", "started_ts", "ended_ts", "processor", "error")

_DELAY = re.compile(r"\+(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def main(arguments: Sequence[str], clock: Clock | None = None, sleep: Sleep = pause) -> int:
    """Returns the exit code; wrong arguments exit by themselves."""
    options = _parser().parse_args(arguments)
    try:
        client = _client(os.environ, sleep)
        commands = Commands(client, options, clock or SystemClock(), sleep)
        code: int = getattr(commands, options.command)()
        sys.stdout.flush()
        return code
    except ApiError as error:
        say(str(error))
        return _exit_code(error)
    except InvalidSetting as error:
        say(str(error))
        return USAGE
    except BrokenPipeError:  # Whoever read our lines has enough of them.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130


class Commands:
    """Each prints what it did, and returns the exit code."""

    def __init__(
        self, client: SchedulerClient, options: argparse.Namespace, clock: Clock, sleep: Sleep
    ) -> None:
        self._client = client
        self._options = options
        self._clock = clock
        self._sleep = sleep

    def create(self) -> int:
        """Create a task, or show the one that the key made before."""
        given = self._options
        send_ts, key = self._time(given.time), given.key or str(uuid.uuid4())
        try:
            task = self._client.create(
                given.type, send_ts, payload=given.payload, idempotency_key=key
            )
        except Unavailable as error:
            say(str(error))
            say(f"to send it again: {self._command_again(send_ts, key)}")
            return UNAVAILABLE
        except ApiError as error:
            task = self._made_before(error)
            say(f"already there, created at {task['created_ts']}")
        self._print(COLUMNS, [task])
        return DONE

    def _made_before(self, error: ApiError) -> Task:
        """The task of the same key, if the time differs only since it counts from now; else raises
        the error.
        """
        given, task_id = self._options, error.details.get("id")
        counts_from_now = self._time(given.time) != given.time
        if error.type != "IdempotencyKeyReused" or task_id is None or not counts_from_now:
            raise error
        task = self._client.show(task_id)
        if (task["type"], task.get("payload")) != (given.type, given.payload):
            raise error
        return task

    def _command_again(self, send_ts: str, key: str) -> str:
        """What sends the very same create, whenever it is called."""
        given = self._options
        words = [sys.executable, "-m", "local", "task", "create", given.type, send_ts, "--key", key]
        if given.payload is not None:
            words += ["--payload", json.dumps(given.payload)]
        return shlex.join(words)

    def show(self) -> int:
        self._print(COLUMNS, [self._client.show(self._options.id)])
        return DONE

    def list(self) -> int:
        given = self._options
        tasks = self._client.list(
            states=given.state,
            types=given.type,
            since=given.since and self._time(given.since),
            until=given.until and self._time(given.until),
            newest_first=given.newest,
            page_size=min(given.limit or 200, 200),
        )
        self._print(COLUMNS, islice(tasks, given.limit or None))
        return DONE

    def delete(self) -> int:
        """All that can be deleted; the worst that happened is told."""
        return self._each(self._client.delete)

    def retry(self) -> int:
        """All that can be run again, as `delete`."""
        tasks: list[Task] = []
        code = self._each(lambda task_id: tasks.append(self._client.retry(task_id)))
        if tasks:
            self._print(COLUMNS, tasks)
        return code

    def _each(self, call: Callable[[str], object]) -> int:
        code = DONE
        for task_id in self._options.id:
            try:
                call(task_id)
            except ApiError as error:
                say(f"{task_id}: {error}")
                code = max(code, _exit_code(error))
        return code

    def watch(self) -> int:
        """Print the task whenever it has changed, until it is finished."""
        last: object = None
        while True:
            task = self._client.show(self._options.id)
            now = (task["state"], task["attempt"], task["error"])
            if now != last:
                self._print(COLUMNS, [task], heading=last is None)
                sys.stdout.flush()
                last = now
            if task["state"] in ("completed", "failed"):
                return DONE if task["state"] == "completed" else FAILED
            self._sleep(self._until_next_look_s(task))

    def explain(self) -> int:
        told = self._client.explain(self._options.id)
        if self._options.json:
            print(json.dumps(told))
            return DONE
        print(f"{told['reason']}: {told['message']}")
        for name in ("state", "due_at", "held_by", "lease_until", "shard", "owner"):
            print(f"  {name:<12}{_cell(told.get(name))}")
        print(f"  {'processors':<12}{len(told['processors'])}")
        if told["attempts"]:
            self._print(ATTEMPT_COLUMNS, told["attempts"])
        return DONE

    def stats(self) -> int:
        """What ran lately, what waits, and who is alive."""
        given = self._options
        now = self._now()
        told = self._client.stats(
            since=now - given.last, until=now, types=given.type, step=given.step
        )
        if given.json:
            print(json.dumps(told))
            return DONE
        for line in stats.lines(told, is_terminal=sys.stdout.isatty()):
            print(line)
        print_table(stats.PROCESSOR_COLUMNS, stats.processor_rows(told))
        return DONE

    def _time(self, text: str) -> str:
        """A delay from now as a time; any other text as it is, for the service to judge."""
        delay = _delay("+0s" if text == "now" else text)
        if delay is None:
            return text
        try:
            return rfc3339(self._now() + delay)
        except OverflowError:
            return text

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)

    def _until_next_look_s(self, task: Task) -> float:
        """Often while something can happen, seldom while its time is far."""
        send_s = datetime.fromisoformat(task["send_ts"]).timestamp()
        wait_s = (send_s - self._clock.now_ms() / 1000) / 2
        return min(LOOK_AGAIN_MAX_S, max(LOOK_AGAIN_S, wait_s))

    def _print(
        self,
        columns: Sequence[str],
        rows: Iterable[Task] | Iterable[Attempt],
        heading: bool = True,
    ) -> None:
        if self._options.json:
            for row in rows:
                print(json.dumps(row))
        else:
            print_table(columns, [*rows], heading=heading)


def print_table(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, heading: bool = True
) -> None:
    """Columns as wide as they need; on a terminal, lines are cut at its edge."""
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    titles = [column.upper().ljust(LEAST_WIDTHS.get(column, 0)) for column in columns]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in [titles, *cells] if heading else cells:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text[:edge].rstrip())


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _exit_code(error: ApiError) -> int:
    if isinstance(error, Unavailable):
        return UNAVAILABLE
    return USAGE if error.code == 400 else FAILED


def _client(env: Mapping[str, str], sleep: Callable[[float], object]) -> SchedulerClient:
    """Raises InvalidSetting for a key that cannot be read."""
    url = env.get("SCHEDULER_URL") or URL
    session = requests.Session()
    # A proxy of the environment does not lead to this machine.
    session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
    key = secret_line(env, "SCHEDULER_KEY")
    return SchedulerClient(url, key=key and key.strip(), session=session, sleep=sleep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local task", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="one JSON object a line")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, parents=[shared])

    _add_create(command("create", "create a task"))
    _add_list(command("list", "list tasks by their time"))
    for name, help in (
        ("show", "show a task"),
        ("watch", "follow a task until it is finished"),
        ("explain", "tell why a task has not run yet"),
    ):
        command(name, help).add_argument("id")
    _add_stats(command("stats", "tell what ran, what waits and who is alive"))
    command("retry", "run failed tasks again").add_argument("id", nargs="+")
    command("delete", "delete tasks").add_argument("id", nargs="+")
    return parser


def _add_create(create: argparse.ArgumentParser) -> None:
    create.add_argument("type", help="such as Foo")
    create.add_argument("time", help="RFC 3339 with an offset, or +5s, +500ms, +2m, +1h, +1d, now")
    create.add_argument("--payload", type=_json_object, metavar="JSON")
    create.add_argument(
        "--key",
        help="Idempotency-Key: the same one gives the same task, also when the time is a delay",
    )


def _add_list(listed: argparse.ArgumentParser) -> None:
    listed.add_argument("--state", action="append", default=[])
    listed.add_argument("--type", action="append", default=[])
    listed.add_argument("--since", metavar="TIME", help="as for create")
    listed.add_argument("--until", metavar="TIME")
    listed.add_argument("--newest", action="store_true", help="the latest first")
    listed.add_argument("--limit", type=_count, default=50, metavar="N", help="default 50; 0: all")


def _add_stats(stats: argparse.ArgumentParser) -> None:
    stats.add_argument(
        "--last", type=_duration, default="1h", metavar="TIME", help="such as 15m, 1d"
    )
    stats.add_argument("--type", action="append", default=[])
    stats.add_argument("--step", choices=get_args(Step))


def _duration(text: str) -> timedelta:
    if (duration := _delay(f"+{text}")) is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a duration such as 15m, 6h or 1d")
    return duration


def _delay(text: str) -> timedelta | None:
    """None if it is none, or too long a one."""
    found = _DELAY.fullmatch(text)
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]]) if found else None
    except OverflowError:
        return None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a JSON object")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of tasks")
    return int(text)
