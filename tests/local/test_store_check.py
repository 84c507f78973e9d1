"""The check of a whole store: which rows each task should have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.alternator import requests, rows
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.rows import Row
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from chalicelib.task import Task
from local import verify
from local.store_check import RowFindings, StoreCheck
from tests.support.fakes import NOON_MS, FakeClock, Ids, new_task

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

pytestmark = pytest.mark.wall_clock

IDS = Ids(3)


@pytest.fixture
def tasks(client: Client, settings: Settings) -> Sequence[Task]:
    """Scheduled ones; the last three have a day of their own partition."""
    clock = FakeClock()
    store = AlternatorTaskStore(client, clock, prefix=settings.table_prefix, shards=4)
    made = [store.create(new_task(IDS, send_ts_ms=NOON_MS + 60_000 + n)) for n in range(3)]
    (day,) = Indexes(settings.table_prefix, 4).all.path(1, NOON_MS)
    put(client, day.names)
    clock.tick(20)
    made += [store.create(new_task(IDS, send_ts_ms=NOON_MS + 70_000 + n)) for n in range(3)]
    return [store.get(task.id) for task in made]


def put(client: Client, wanted: Sequence[Row], *, delete: bool = False) -> None:
    for request in rows.batches(wanted, delete=delete):
        client.decide(request)


def found(client: Client, settings: Settings) -> RowFindings:
    return StoreCheck(client, settings, FakeClock()).run(lambda _: None)


def test_a_store_in_order(client: Client, settings: Settings, tasks: Sequence[Task]) -> None:
    findings = found(client, settings)
    assert findings.breaches == []
    assert findings.line() == "kept: 6 tasks, 18 rows, 0 missing, 0 surplus, 0 unnamed"


@pytest.mark.parametrize("number", range(3))
def test_a_row_that_is_missing(
    client: Client, settings: Settings, tasks: Sequence[Task], number: int
) -> None:
    row = Indexes(settings.table_prefix, 4).rows(tasks[4])[number]
    put(client, [row], delete=True)
    (breach,) = found(client, settings).breaches
    assert (breach.kind, breach.task) == ("missing", tasks[4].id)
    assert breach.what == f"{row.table} {row.slot} {row.at}"


@pytest.mark.parametrize("number", range(2))
def test_a_partition_that_is_not_named(
    client: Client, settings: Settings, tasks: Sequence[Task], number: int
) -> None:
    (day,) = Indexes(settings.table_prefix, 4).open.path(1, NOON_MS)
    put(client, [day.names[number]], delete=True)
    findings = found(client, settings)
    assert {(breach.kind, breach.task) for breach in findings.breaches} == {
        ("unnamed", task.id) for task in tasks[3:]
    }
    assert findings.line().startswith("BROKEN: 6 tasks, 18 rows, 0 missing, 0 surplus, 3 unnamed")


def test_rows_that_no_task_needs(client: Client, settings: Settings, tasks: Sequence[Task]) -> None:
    indexes = Indexes(settings.table_prefix, 4)
    elsewhere = indexes.all.row(0, tasks[4].send_ts_ms, tasks[4].id, "Baz")
    nobody = indexes.all.row(0, NOON_MS, IDS(), "Baz")
    failed = indexes.failed.row(0, tasks[0].send_ts_ms, tasks[0].id, "Baz")
    put(client, [elsewhere, nobody, failed])
    breaches = found(client, settings).breaches
    assert sorted(breach.what.split()[2] for breach in breaches) == sorted(
        row.at for row in (elsewhere, nobody, failed)
    )
    assert {breach.kind for breach in breaches} == {"surplus"}


def test_what_is_put_right_meanwhile_is_no_breach(
    client: Client, settings: Settings, tasks: Sequence[Task]
) -> None:
    row = Indexes(settings.table_prefix, 4).all_row(tasks[0])
    put(client, [row], delete=True)
    waited: list[float] = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        put(client, [row])

    assert StoreCheck(client, settings, FakeClock()).run(meanwhile).is_kept
    assert waited == [6.0]


def test_a_record_of_a_newer_version_is_counted(
    client: Client,
    settings: Settings,
    tasks: Sequence[Task],
    raw_client: "DynamoDBClient",
) -> None:
    table = f"{settings.table_prefix}tasks"
    newer = requests.encode_task(tasks[0]) | {"state": {"S": "paused"}}
    raw_client.put_item(TableName=table, Item=newer)
    findings = found(client, settings)
    assert findings.is_kept
    assert findings.line().endswith(", 1 unreadable records")


def test_the_command(
    client: Client,
    settings: Settings,
    tasks: Sequence[Task],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHARDS", "4")
    place = ["--endpoints", settings.endpoints[0], "--prefix", settings.table_prefix]
    assert verify.main(["--rows", *place]) == 0
    assert capsys.readouterr().out == ("kept: 6 tasks, 18 rows, 0 missing, 0 surplus, 0 unnamed\n")
    assert verify.main(place) == 2
    assert "name a LEDGER, or --rows, or both" in capsys.readouterr().err
    assert SystemClock().now_ms() > 0
