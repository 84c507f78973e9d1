"""The contract of statistics, on every store there is; and what they cost on Alternator."""

from collections.abc import Iterable
from random import Random

import pytest

from chalicelib.api.stats import backlog_filter, figures, stats_json
from chalicelib.api.stats_query import stats_query
from chalicelib.histogram import Histogram
from chalicelib.statistics import Statistics, StatisticsRow, Step, encoded
from chalicelib.store import cost
from chalicelib.store.alternator.queue import AlternatorTaskQueue
from chalicelib.times import rfc3339
from tests.conftest import QueueKit
from tests.support.fakes import NOON_MS, Ids, new_task

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def row(
    step: Step = Step.MINUTE,
    start_ms: int = NOON_MS,
    processor: str = "p",
    part: int = 1,
    started: int = 1,
) -> StatisticsRow:
    return StatisticsRow(
        step, start_ms, processor, part, encoded({"Foo": Statistics(started=started)})
    )


def put(kit: QueueKit, rows: Iterable[StatisticsRow]) -> None:
    kit.run(kit.queue.put_statistics(list(rows)))


def read(
    kit: QueueKit, since_ms: int, until_ms: int, step: Step = Step.MINUTE
) -> list[StatisticsRow]:
    page = kit.store.statistics(step, since_ms=since_ms, until_ms=until_ms)
    assert page.is_complete
    return sorted(page.rows)


def test_a_row_takes_the_place_of_the_last_one(queue_kit: QueueKit) -> None:
    put(queue_kit, [row(started=1), row(part=2)])
    put(queue_kit, [row(started=5), row(processor="q#7")])
    assert read(queue_kit, NOON_MS, NOON_MS + 1) == [
        row(started=5), row(part=2), row(processor="q#7"),
    ]  # fmt: skip


def test_rows_that_start_within_the_time_are_read(queue_kit: QueueKit) -> None:
    times = [NOON_MS + hour * HOUR_MS for hour in range(-30, 30)]
    put(queue_kit, (row(Step.HOUR, ms) for ms in times))
    put(queue_kit, [row()])
    since_ms, until_ms = times[3], times[55]
    found = read(queue_kit, since_ms, until_ms, Step.HOUR)
    assert [one.start_ms for one in found] == times[3:55]
    assert read(queue_kit, since_ms, since_ms, Step.HOUR) == []
    assert read(queue_kit, NOON_MS + 1, until_ms) == []


def test_heartbeats_do_not_see_them(queue_kit: QueueKit) -> None:
    put(queue_kit, [row()])
    assert list(queue_kit.store.heartbeats()) == []


@pytest.mark.parametrize(("step", "days"), [(Step.MINUTE, 2), (Step.HOUR, 90)])
def test_rows_tell_until_when_they_are_kept(
    queue_kit: QueueKit, request: pytest.FixtureRequest, step: Step, days: int
) -> None:
    if not isinstance(queue_kit.queue, AlternatorTaskQueue):
        pytest.skip("in memory they are kept")
    put(queue_kit, [row(step)])
    prefix = request.getfixturevalue("settings").table_prefix
    scanned = request.getfixturevalue("raw_client").scan(TableName=f"{prefix}workers")
    (item,) = scanned["Items"]
    assert int(item["purge_at_s"]["N"]) == (NOON_MS + step.ms) // 1000 + days * 86_400


def test_a_day_of_sixteen_processors_is_read_by_few_requests(queue_kit: QueueKit) -> None:
    """Each with three types, and a tick each minute, as busy as can be."""
    if not isinstance(queue_kit.queue, AlternatorTaskQueue):
        pytest.skip("it counts the requests of Alternator")
    rng, ids = Random(1), Ids(1)
    busy, first_ms = busy_hour(rng), NOON_MS - DAY_MS
    processors = [ids() for _ in range(16)]
    hours = range(first_ms, NOON_MS, HOUR_MS)
    put(queue_kit, (StatisticsRow(Step.HOUR, ms, p, 1, busy) for ms in hours for p in processors))
    ticks = range(first_ms, NOON_MS, 60_000)
    put(queue_kit, (row(Step.HOUR, ms - ms % HOUR_MS, ids()) for ms in ticks))
    with cost.counted() as counted:
        found = read(queue_kit, first_ms, NOON_MS, Step.HOUR)
    assert len(found) == 16 * 24 + 1_440
    assert counted.requests <= 4


def test_the_stats_of_a_day_take_few_requests(queue_kit: QueueKit) -> None:
    """With a backlog of many tasks beside."""
    if not isinstance(queue_kit.queue, AlternatorTaskQueue):
        pytest.skip("it counts the requests of Alternator")
    tasks = [
        new_task(queue_kit.ids, send_ts_ms=NOON_MS - n, now_ms=NOON_MS - n) for n in range(300)
    ]
    for start in range(0, 300, 100):
        queue_kit.store.create_many(tasks[start : start + 100])
    query = stats_query({"since": [rfc3339(NOON_MS - DAY_MS)]}, NOON_MS)
    with cost.counted() as counted:
        page = queue_kit.store.statistics(
            query.rows, since_ms=query.since_ms, until_ms=query.until_ms
        )
        backlog = queue_kit.store.list(backlog_filter(query, NOON_MS))
        heartbeats = queue_kit.store.heartbeats()
    assert counted.requests <= 20
    answer = stats_json(
        query,
        figures(query, page),
        now_ms=NOON_MS,
        backlog=backlog,
        heartbeats=heartbeats,
        shards=4,
    )
    assert answer["backlog"] == {"due": 100, "is_more": True, "oldest_s": 0.299}


def busy_hour(rng: Random) -> str:
    lateness, run_time = Histogram(), Histogram()
    for _ in range(5_000):
        lateness.add([int(rng.lognormvariate(3, 1))])
        run_time.add([int(rng.lognormvariate(5, 1.5))])
    one = Statistics(5_000, 5_000, 10, 20, 3, 1, lateness, run_time)
    return encoded({"Foo": one, "Bar": one, "Baz": one})
