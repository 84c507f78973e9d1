"""The checker: it keeps quiet about what is right, and finds each kind of breach."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chalicelib.config import Settings
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task
from local import verify
from local.evidence import Death, Event, Evidence
from local.findings import Findings, percentile
from local.judge import judge
from local.settings import ROOT
from tests.support.cluster import service_env
from tests.support.fakes import NOON_MS, Ids, new_task

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class History:
    """The events of one task and its record, written as they would happen.

    Times are seconds after noon, on both clocks.
    """

    def __init__(self, send_s: float = 0.0) -> None:
        self.ids = Ids()
        self.task: Task = new_task(self.ids, send_ts_ms=_ms(send_s))
        self.events: list[Event] = []
        self.lines: list[str] = []

    def note(self, event: str, task: Task, at_s: float, pid: int = 1, **more: Any) -> None:
        self.events.append(
            Event(
                event=event,
                task=task.id,
                attempt=task.attempt,
                claim=task.claim or "",
                processor=task.processor or "",
                send_ts_ms=task.send_ts_ms,
                due_at_ms=task.due_at_ms,
                at_ms=_ms(at_s),
                at_s=at_s,
                pid=pid,
                **more,
            )
        )

    def claim(self, at_s: float, pid: int = 1) -> Task:
        """Granted whatever stands in the record: the store under test may be broken."""
        due = replace(self.task, due_at_ms=_ms(at_s))
        self.task = due.claimed(now_ms=_ms(at_s), claim=self.ids(), processor=f"p{pid}")
        self.note("claim", self.task, at_s, pid)
        return self.task

    def start(self, held: Task, at_s: float, pid: int = 1) -> None:
        self.note("start", held, at_s, pid)

    def complete(self, held: Task, at_s: float, pid: int = 1, committed: bool = True) -> None:
        done = held.completed(f"Baz of {held.attempt}", now_ms=_ms(at_s))
        self.note("settle", done, at_s, pid, state=done.state, began_s=at_s, committed=committed)
        if committed:
            self.task = done

    def print(self, held: Task, at_s: float, line: str = "") -> None:
        line = line or f"Baz of {held.attempt}"
        self.note("print", held, at_s, line=line)
        self.lines.append(line)

    def attempt(self, at_s: float, pid: int = 1) -> Task:
        """From claim to print."""
        held = self.claim(at_s, pid)
        self.start(held, at_s + 0.01, pid)
        self.complete(held, at_s + 0.02, pid)
        self.print(held, at_s + 0.02)
        return held

    def judged(self, **given: Any) -> Findings:
        evidence: dict[str, Any] = {
            "events": self.events,
            "tasks": {self.task.id: self.task},
            "acknowledged": [self.task.id],
            "lines": self.lines,
            "now_ms": _ms(100),
        }
        return judge(Evidence(**evidence | given))


def _ms(at_s: float) -> int:
    return NOON_MS + round(at_s * 1000)


def whats(findings: Findings, kind: str) -> list[str]:
    return [breach.what for breach in findings.breaches if breach.kind == kind]


def test_a_kept_promise() -> None:
    history = History()
    history.attempt(0.005)
    findings = history.judged()
    assert findings.is_kept
    assert findings.line() == (
        "kept: 1 tasks, 1 executions, 0 duplicates of effect, 0 early starts,"
        " 0 overlapping attempts, 0 lost tasks, lateness p50 15 ms p99 15 ms max 15 ms,"
        " nothing to recover"
    )


def test_a_recovered_task_is_no_breach_and_its_recovery_is_measured() -> None:
    history = History()
    lost = history.claim(0, pid=7)
    history.start(lost, 0.1, pid=7)
    history.attempt(10.4, pid=8)
    deaths = [Death(pid=7, at_s=2.0), Death(pid=8, at_s=50.0)]
    findings = history.judged(deaths=deaths, recovered_within_s=12.0)
    assert findings.is_kept
    assert findings.recovery_s == [pytest.approx(0.4)]
    assert findings.recovery_from_death_s == [pytest.approx(8.4)]
    assert "slowest recovery 0.4 s after the lease and 8.4 s after the death" in findings.line()
    assert findings.overlaps == 0


def test_what_is_claimed_again_before_its_lease_expired_was_taken_over() -> None:
    history = History()
    history.claim(0, pid=7)
    history.claim(2.3, pid=8)
    history.attempt(12.4, pid=9)
    deaths = [Death(pid=7, at_s=2.0), Death(pid=8, at_s=3.0)]
    findings = history.judged(deaths=deaths, recovered_within_s=12.0)
    assert findings.is_kept
    assert findings.recovery_s == [0.0, pytest.approx(0.1)]
    assert findings.recovery_from_death_s == [pytest.approx(0.3), pytest.approx(9.4)]
    assert findings.taken_over == 1
    assert history.judged().taken_over == 0, "nobody is known to have died"


def test_a_retry_is_no_recovery() -> None:
    history = History()
    held = history.claim(0)
    history.start(held, 0)
    history.task = held.failed_once("no", now_ms=_ms(1), jitter=lambda: 0.0)
    retry = history.task
    history.note("settle", retry, 1, state=retry.state, began_s=1.0, committed=True)
    history.attempt(3)
    findings = history.judged()
    assert findings.is_kept
    assert findings.recovery_s == []


def test_a_failed_task_that_is_run_again_is_no_breach() -> None:
    history = History()
    held = history.claim(0.1)
    history.start(held, 0.1)
    history.task = held.failed("boom", now_ms=_ms(0.2))
    history.note("settle", history.task, 0.2, state="failed", began_s=0.2, committed=True)
    assert history.judged(now_ms=_ms(1)).is_kept
    history.task = history.task.retried(now_ms=_ms(5), token="t")
    assert history.judged(now_ms=_ms(6)).is_kept
    history.attempt(5.1)
    findings = history.judged()
    assert findings.is_kept, findings.breaches
    assert (findings.executions, findings.overlaps) == (2, 0)
    history.claim(7)
    assert whats(history.judged(), "duplicate") != [], "a completed one is not"


def test_a_slow_recovery_is_a_breach_where_a_limit_is_given() -> None:
    history = History()
    history.claim(0, pid=7)
    history.attempt(15)
    deaths = [Death(pid=7, at_s=1.0)]
    assert history.judged(deaths=deaths).is_kept
    slow = history.judged(deaths=deaths, recovered_within_s=12.0)
    assert whats(slow, "slow") == ["claimed again 14.0 s after its processor's death"]
    assert "1 slow recoveries" in slow.line()


def test_a_zombie_that_is_refused_is_no_breach_and_its_overlap_is_counted() -> None:
    history = History()
    zombie = history.claim(0, pid=7)
    history.start(zombie, 0.1, pid=7)
    heir = history.claim(10.2, pid=8)
    history.start(heir, 10.3, pid=8)
    history.complete(zombie, 11, pid=7, committed=False)
    history.complete(heir, 12, pid=8)
    history.print(heir, 12)
    findings = history.judged()
    assert findings.is_kept
    assert findings.overlaps == 1
    assert findings.recovery_s == [pytest.approx(0.2)]


def test_a_dead_attempt_overlaps_nothing_after_its_death() -> None:
    history = History()
    history.start(history.claim(0, pid=7), 0.1, pid=7)
    history.attempt(5)
    assert history.judged(deaths=[Death(pid=7, at_s=4.9)]).overlaps == 0
    assert history.judged(deaths=[Death(pid=7, at_s=5.1)]).overlaps == 1
    assert history.judged().overlaps == 1


def test_two_commits() -> None:
    history = History()
    history.attempt(0)
    history.attempt(11)
    what = whats(history.judged(), "duplicate")
    assert "finished by 2 claims" in what
    assert "printed 2 times" in what
    assert "claimed again although attempt 1 finished it" in what


def test_a_commit_that_the_ledger_missed_counts() -> None:
    """The processor died between its commit and its note of it."""
    history = History()
    held = history.claim(0)
    history.start(held, 0)
    history.task = committed = held.completed("Baz of 1", now_ms=_ms(1))
    assert history.judged().is_kept
    again = history.claim(11)
    history.complete(again, 12)
    history.task = committed
    assert "finished by 2 claims" in whats(history.judged(), "duplicate")


def test_printed_twice() -> None:
    history = History()
    history.print(history.attempt(0), 1)
    assert whats(history.judged(), "duplicate")[0] == "printed 2 times"


def test_printed_without_being_committed() -> None:
    history = History()
    held = history.claim(0)
    history.start(held, 0)
    history.print(held, 1)
    assert whats(history.judged(lines=None), "duplicate") == ["printed without being committed"]


def test_printed_by_another_claim() -> None:
    history = History()
    zombie = history.claim(0)
    heir = history.claim(10.1)
    history.complete(heir, 11)
    history.print(zombie, 12)
    what = "printed by another claim than the one that committed"
    assert whats(history.judged(lines=None), "duplicate") == [what]


def test_printed_another_line_than_the_stored_one() -> None:
    history = History()
    held = history.claim(0)
    history.complete(held, 1)
    history.print(held, 1, line="Baz 7")
    what = "printed another line than the one that was committed"
    assert whats(history.judged(lines=None), "duplicate") == [what]


def test_settled_by_a_claim_that_held_no_more() -> None:
    history = History()
    zombie = history.claim(0)
    history.claim(10.1)
    back = zombie.released(now_ms=_ms(11), hint_due_ms=_ms(0))
    history.note("settle", back, 11, state=back.state, began_s=11.0, committed=True)
    what = ["settled by a claim that held no more"]
    assert whats(history.judged(), "duplicate") == what


def test_finished_by_the_attempt_before_the_one_that_held_it() -> None:
    """A settlement applied late, its condition not looking at the claim: the record shows both."""
    history = History()
    zombie = history.claim(0)
    heir = history.claim(10.1)
    late = zombie.completed("Baz of 1", now_ms=_ms(3))
    history.task = replace(late, claim=heir.claim)
    assert whats(history.judged(), "duplicate") == [
        "finished by an attempt before the one that held it",
        "claimed again although attempt 1 finished it",
    ]


def test_an_answer_that_came_late_is_no_stale_settlement() -> None:
    history = History()
    held = history.claim(0)
    history.start(held, 0)
    retry = held.failed_once("no", now_ms=_ms(1), jitter=lambda: 0.0)
    history.note("settle", retry, 4, state=retry.state, began_s=1.0, committed=True)
    history.task = retry
    history.attempt(3.2)
    assert history.judged().is_kept


def test_one_attempt_claimed_twice() -> None:
    history = History()
    first = history.claim(0)
    history.task = replace(first, attempts=())
    history.claim(0.1)
    assert whats(history.judged(), "duplicate") == ["attempt 1 claimed twice"]


def test_a_finished_task_that_is_unfinished_again() -> None:
    history = History()
    history.attempt(0)
    undone = new_task(Ids(), now_ms=_ms(90))
    assert undone.id == history.task.id
    findings = history.judged(tasks={undone.id: undone}, lines=None)
    assert "finished, then scheduled again" in whats(findings, "duplicate")


def test_surplus_lines() -> None:
    """Only what was really printed tells of a processor that died before it took note."""
    history = History()
    history.attempt(0)
    assert history.judged(lines=[]).is_kept
    findings = history.judged(lines=["Baz of 1", "Baz of 1", "Baz of 1"])
    assert whats(findings, "duplicate") == ["printed 2 times more often than committed"]


def test_an_early_start() -> None:
    history = History(send_s=5)
    held = history.claim(4.9)
    history.start(held, 4.99)
    history.complete(held, 5.2)
    findings = history.judged()
    assert whats(findings, "early") == ["started 10 ms early"]
    assert "1 early starts" in findings.line()


def test_a_start_long_after_its_claim_is_named_apart() -> None:
    history = History()
    held = history.claim(0)
    history.start(held, 3.1)
    history.complete(held, 3.2)
    findings = history.judged()
    assert findings.is_kept
    assert findings.late_starts == 1
    assert "1 late starts" in findings.line()


@pytest.mark.parametrize("where", ["acknowledged", "ledger"])
def test_a_task_that_is_gone(where: str) -> None:
    history = History()
    history.attempt(0)
    given: dict[str, Any] = {"tasks": {}, "lines": None}
    given |= {"events": []} if where == "acknowledged" else {"acknowledged": []}
    assert whats(history.judged(**given), "lost") == ["is not in the store"]


def test_a_tombstone_is_not_lost() -> None:
    history = History()
    deleted = history.task.deleted(now_ms=_ms(1), token="t")
    assert history.judged(tasks={deleted.id: deleted}).is_kept


def test_a_task_that_was_forgotten() -> None:
    history = History()
    assert whats(history.judged(), "lost") == ["scheduled, and due for 100.0 s"]
    assert history.judged(grace_s=101.0).is_kept
    stuck = replace(history.task, due_at_ms=None)
    assert whats(history.judged(tasks={stuck.id: stuck}), "lost") == ["scheduled, and never due"]


def test_a_record_of_a_newer_version_is_not_lost() -> None:
    history = History()
    findings = history.judged(tasks={}, unreadable={history.task.id})
    assert findings.is_kept
    assert "1 unreadable records" in findings.line()


def test_lateness_counts_from_when_a_task_can_run() -> None:
    history = History(send_s=-500)
    history.attempt(2)
    assert history.judged().lateness_ms == [2010]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


# The command


def store_task(client: "DynamoDBClient", settings: Settings, task: Task) -> None:
    item: Any = requests.encode_task(task)
    client.put_item(TableName=f"{settings.table_prefix}tasks", Item=item)


def run(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "local", "verify", *arguments],
        cwd=ROOT,
        env=service_env(settings),
        capture_output=True,
        text=True,
    )


def write(path: Path, history: History) -> str:
    path.write_text("".join(json.dumps(event._asdict()) + "\n" for event in history.events))
    return str(path)


def test_command_tells_a_kept_promise(
    client: Client, raw_client: "DynamoDBClient", settings: Settings, tmp_path: Path
) -> None:
    history = History()
    history.attempt(0)
    store_task(raw_client, settings, history.task)
    ledger = write(tmp_path / "ledger", history)
    with open(ledger, "a") as file:
        file.write(json.dumps({"event": "death", "pid": 1, "at_s": 3.0}) + '\n{"event": "cl')
    (tmp_path / "acknowledged").write_text(history.task.id + "\n")
    (tmp_path / "lines").write_text("Baz of 1\n")
    told = run(
        settings, ledger, f"--acknowledged={tmp_path}/acknowledged", f"--lines={tmp_path}/lines"
    )
    assert told.returncode == 0
    assert told.stdout.startswith("kept: 1 tasks, 1 executions, 0 duplicates")
    assert told.stdout.endswith("1 torn lines\n")
    assert told.stdout.count("\n") == 1


def test_command_tells_a_broken_one(
    client: Client, raw_client: "DynamoDBClient", settings: Settings, tmp_path: Path
) -> None:
    history = History()
    history.attempt(0)
    history.attempt(11)
    store_task(raw_client, settings, history.task)
    told = run(settings, write(tmp_path / "ledger", history), "--grace", "1")
    assert told.returncode == 1
    assert told.stdout.startswith("BROKEN: 1 tasks, 2 executions, 1 duplicates of effect")
    assert f"duplicate: {history.task.id}: finished by 2 claims" in told.stderr


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ('{"event": "cl\n{}\n', "line 1: no event of a ledger"),
        ('{"event": "dance"}\n', "unknown event 'dance'"),
        ('{"event": "claim"}\n', "KeyError('task')"),
        ("[]\n", "line 1: no event of a ledger"),
    ],
)
def test_unusable_ledgers(tmp_path: Path, ledger: str, message: str) -> None:
    path = tmp_path / "ledger"
    path.write_text(ledger)
    with pytest.raises(verify.Unusable, match="ledger") as refused:
        verify.Ledgers().read(path)
    assert message in str(refused.value)


def test_a_torn_line_is_counted_wherever_it_stands(tmp_path: Path) -> None:
    """Processes share a ledger, and go on after one of them was killed in the middle of a line."""
    history = History()
    history.attempt(0)
    path = tmp_path / "ledger"
    text = Path(write(path, history)).read_text()
    path.write_text('{"event": "start", "task": "1' + text + '{"event"')
    ledgers = verify.Ledgers()
    ledgers.read(path)
    assert ledgers.events == history.events
    assert ledgers.torn == 2


def test_command_refuses_what_it_cannot_use(settings: Settings, tmp_path: Path) -> None:
    missing = run(settings, str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none cannot be read" in missing.stderr
    (tmp_path / "empty").write_text("")
    (tmp_path / "ids").write_text("42\n")
    no_id = run(settings, str(tmp_path / "empty"), f"--acknowledged={tmp_path}/ids")
    assert (no_id.returncode, no_id.stdout) == (2, "")
    assert "line 1: '42' is no id of a task" in no_id.stderr
    no_store = run(settings, str(tmp_path / "empty"), "--endpoints", "http://127.0.0.1:9")
    assert (no_store.returncode, no_store.stdout) == (2, "")
    assert "the store cannot be read" in no_store.stderr
