"""A store that can do only so much, on the virtual clock: nothing collapses, and every outage ends.

Each test is one that fails on a service that asks what it likes: `test_without_limits_…` shows it.
SCENARIO_SEED=N makes another run.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from chalicelib.errors import StoreBusy
from chalicelib.store.alternator.wire import gate as gates
from chalicelib.store.alternator.wire.gate import Gate
from chalicelib.store.alternator.wire.limit import Limit
from chalicelib.task import TaskState
from tests.support.fleets import DUE_S, Site, Views
from tests.support.virtual_store import Costs, VirtualNode

SEED = int(os.environ.get("SCENARIO_SEED") or 1)
TROUBLE_S = DUE_S + 5
ENDS_S = TROUBLE_S + 30


def states(site: Site) -> Counter[str]:
    return Counter(task.state.value for task in site.tasks())


def attempts(site: Site) -> Counter[int]:
    return Counter(task.attempt for task in site.tasks())


async def until(when_s: float) -> None:
    await asyncio.sleep(max(0.0, when_s - asyncio.get_running_loop().time()))


@pytest.mark.parametrize("processors", [1, 8, 24])
def test_a_burst_runs_as_fast_as_the_store_can(processors: int) -> None:
    site = Site(SEED)
    site.add(2_000)
    site.run(processors, lambda: site.until_done(60))
    assert site.burst_share() >= 0.9
    assert attempts(site) == {1: 2_000}
    assert states(site) == {TaskState.COMPLETED: 2_000}
    assert len(site.lines) == 2_000
    counts = site.counts()
    assert counts["abandoned"] <= 0.02 * counts["asked"]


def test_without_limits_nothing_but_waste_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others of this file would be without the mechanism: as it was."""
    monkeypatch.setattr(Limit, "has_room", lambda limit, now_s, **how: True)
    monkeypatch.setattr(Gate, "may_claim", lambda gate, claiming, held: True)
    monkeypatch.setattr(Gate, "_is_lost", lambda gate, peer, asked, now_s: True)
    monkeypatch.setattr(gates, "GIVE_UP_AFTER_S", 1.0)
    site = Site(SEED)
    site.add(2_000)
    site.run(8, lambda: until(60))
    assert site.share(DUE_S + 20, 60) < 0.2


def test_handlers_that_take_their_time_lose_hardly_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed can be settled: 2,400 places, and 71 tasks a second at the store."""
    site = Site(SEED, handler_s=3.0)
    site.add(1_000)
    site.run(24, lambda: site.until_done(60))
    assert attempts(site)[1] >= 995
    assert states(site) == {TaskState.COMPLETED: 1_000}


def test_a_hundred_processors_share_a_small_store() -> None:
    site = Site(SEED)
    site.add(1_500)
    site.run(100, lambda: site.until_done(60))
    assert site.burst_share() >= 0.85
    assert attempts(site)[1] >= 1_490


@pytest.mark.parametrize(("processors", "seed"), [(100, 2), (60, 4)])
def test_an_idle_fleet_that_a_burst_wakes_hardly_claims_a_task_twice(
    processors: int, seed: int
) -> None:
    """Heartbeats and looks are late then: that is nobody's death."""
    site = Site(SEED + seed - 1, due_s=40.0)
    site.add(1_500)
    site.run(processors, lambda: site.until_done(90))
    assert site.burst_share() >= 0.85
    assert site.counts()["refused"] <= 0.02 * 1_500


def test_a_store_that_is_far_but_quick_makes_no_task_late() -> None:
    """What can wait for its turn, polls among it, does not wait for a turn that never comes."""
    site = Site(SEED)
    for node in site.nodes:
        node.network_s, node.costs = 0.01, Costs(0.0001, 0.0001)
    site.add_evenly(200, over_s=15)
    site.run(1, lambda: site.until_done(60))
    late_ms = sorted(task.lateness_ms or 0 for task in site.tasks())
    assert late_ms[len(late_ms) * 99 // 100] <= 60


@pytest.mark.parametrize("processors", [8, 24])
def test_a_store_that_stood_still_is_used_again_at_once(processors: int) -> None:
    site = Site(SEED)
    site.add(3_000)

    async def main() -> None:
        await until(TROUBLE_S)
        for node in site.nodes:
            node.stop()
        await until(ENDS_S)
        assert site.nodes[0].waiting <= 16 * processors, "it is asked less and less meanwhile"
        for node in site.nodes:
            node.go_on()
        await site.until_done(ENDS_S + 60)

    site.run(processors, main)
    assert site.share(ENDS_S + 5, ENDS_S + 15) >= 0.85
    assert states(site) == {TaskState.COMPLETED: 3_000}
    assert attempts(site).keys() <= {1, 2}
    counts = site.counts()
    assert counts["abandoned"] <= 0.02 * counts["asked"]


def test_a_store_that_fails_at_once_is_asked_little_and_used_again() -> None:
    site = Site(SEED)
    site.add(2_500)
    asked: list[int] = []

    async def main() -> None:
        await until(TROUBLE_S)
        site.nodes[0].is_failing = True
        asked.append(site.counts()["asked"])
        await until(ENDS_S)
        asked.append(site.counts()["asked"])
        site.nodes[0].is_failing = False
        await site.until_done(ENDS_S + 60)

    site.run(8, main)
    assert (asked[1] - asked[0]) / 30 <= 50
    assert site.share(ENDS_S + 3, ENDS_S + 13) >= 0.85
    assert states(site) == {TaskState.COMPLETED: 2_500}


def test_the_pace_follows_a_store_that_slows_down_and_recovers() -> None:
    """A tenth of what it could, again and again: each time within 10 s."""
    site = Site(SEED)
    site.add(2_500)

    async def main() -> None:
        for number in range(4):
            await until(TROUBLE_S + 20 * number)
            site.nodes[0].slowness = 1.0 if number % 2 else 10.0
        await site.until_done(TROUBLE_S + 100)

    site.run(8, main)
    slow, fast, slow_again = (
        site.share(TROUBLE_S + 20 * number + 10, TROUBLE_S + 20 * number + 20)
        for number in range(3)
    )
    assert slow * 10 >= 0.7
    assert fast >= 0.85
    assert slow_again * 10 >= 0.7
    assert states(site) == {TaskState.COMPLETED: 2_500}


def slow_down(node: VirtualNode) -> None:
    node.slowness = 50.0


def stop(node: VirtualNode) -> None:
    node.stop()


def fail(node: VirtualNode) -> None:
    node.is_failing = True


def vanish(node: VirtualNode) -> None:
    node.is_gone = True


@pytest.mark.parametrize("harm", [slow_down, stop, fail, vanish])
def test_one_bad_node_of_three_does_not_slow_the_rest(harm: Callable[[VirtualNode], None]) -> None:
    site = Site(SEED, node_count=3)
    site.add(4_000)

    async def main() -> None:
        await until(TROUBLE_S)
        harm(site.nodes[1])
        await site.until_done(90)

    site.run(8, main)
    assert site.share(TROUBLE_S + 3, TROUBLE_S + 13) * 3 / 2 >= 0.85
    assert states(site) == {TaskState.COMPLETED: 4_000}
    assert sum(task.attempt > 1 for task in site.tasks()) <= 40


# The views beside


def test_views_are_answered_beside_a_burst() -> None:
    site = Site(SEED)
    site.add(2_000)
    seen: list[Views] = []

    async def main() -> None:
        views = Views(site)
        seen.append(views)
        await until(DUE_S)
        calling = asyncio.create_task(views.keep_calling())
        await until(DUE_S + 40)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await views.close()

    site.run(24, main)
    (views,) = seen
    assert views.raised == {}
    for name in ("create", "show", "list"):
        took_s = sorted(views.took_s[name])
        assert len(took_s) >= 15
        assert took_s[-1 - len(took_s) // 100] <= 2.0, name


def test_views_of_a_store_that_stands_still_are_turned_away_at_once() -> None:
    """The first wait as long as they have time; once it is known, nobody else does."""
    site = Site(SEED)
    task = site.add_one()
    seen: list[Views] = []

    async def main() -> None:
        views = Views(site)
        seen.append(views)
        await views.timed("before", views.show(task.id))
        site.nodes[0].stop()
        first = [asyncio.create_task(views.timed("first", views.show(task.id))) for _ in range(4)]
        await asyncio.sleep(3)
        for _ in range(50):
            await views.timed("later", views.show(task.id))
        await asyncio.gather(*first)
        site.nodes[0].go_on()
        await asyncio.sleep(1)
        await views.timed("after", views.show(task.id))
        await views.close()

    site.run(1, main)
    (views,) = seen
    turned_away = views.raised[f"later: {StoreBusy.__name__}"]
    assert turned_away >= 40, "few are sent to see whether it answers again"
    assert sum(took_s > 0.1 for took_s in views.took_s["later"]) == 50 - turned_away
    assert max(views.took_s["after"]) < 0.1
    waited = 4 + 50 - turned_away
    assert site.counts()["asked GetItem"] == 2 + 2 * waited, "each asked once more, nobody else did"


@pytest.fixture(autouse=True)
def few_words(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A line for each process that sees it begin and end, not one for each request."""
    yield
    said = Counter(record.__dict__.get("action") for record in caplog.records)
    assert said["store_unavailable"] <= 120
    assert said["store_slow"] <= 200
