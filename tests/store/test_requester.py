"""A request is sent until it is answered, and no longer than there is time: on a clock of the
test's own, with a wire that answers as told."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from chalicelib.errors import StoreBusy, StoreUnavailable
from chalicelib.store.alternator.outcome import ConditionFailed, Unanswered, Unsent
from chalicelib.store.alternator.parallel import Parallel
from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.streams import Merge, Stream
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import PATIENCE_S, Page, Requester
from chalicelib.store.contract import NO_PRESSURE, Pressure
from tests.support.fakes import FakeClock

GET = Request("GetItem", {})
ENDED_WITHIN_S = 5.0
DISTRUST = "certificate of 127.0.0.1: CERTIFICATE_VERIFY_FAILED"


class Scripted:
    """A wire: what comes of each request, in turn; of the last one again and again."""

    def __init__(self, clock: FakeClock, *outcomes: JsonObject | Exception, takes_s: float = 0.0):
        self.clock = clock
        self.outcomes = list(outcomes)
        self.takes_s = takes_s
        self.sent: list[dict[str, Any]] = []
        self.bodies: list[JsonObject] = []

    async def send(self, request: Request, **how: Any) -> JsonObject:
        self.sent.append(how)
        self.bodies.append(request.body)
        self.clock.tick(self.takes_s)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def pressure(self) -> Pressure:
        return NO_PRESSURE

    async def close(self) -> None: ...


def on(*outcomes: JsonObject | Exception, takes_s: float = 0.0) -> tuple[Scripted, Requester]:
    clock = FakeClock()
    wire = Scripted(clock, *outcomes, takes_s=takes_s)
    return wire, Requester(wire, clock, rng=Random(1), sleep=clock.sleep)


def raised(call: Awaitable[Any]) -> StoreUnavailable:
    async def main() -> None:
        await call

    with pytest.raises(StoreUnavailable) as error:
        asyncio.run(main())
    return error.value


def test_each_try_goes_to_another_node_and_says_whether_it_was_sent_before() -> None:
    wire, requester = on(Unsent("no room"), Unanswered("lost"), Unsent("no room"), {"Item": {}})
    assert asyncio.run(requester.decide(GET, key="k", rank=Rank.CLAIM)) == {"Item": {}}
    assert [how["attempt"] for how in wire.sent] == [0, 1, 2, 3]
    assert [how["is_repeated"] for how in wire.sent] == [False, False, True, True]
    assert {(how["key"], how["rank"]) for how in wire.sent} == {("k", Rank.CLAIM)}


def test_an_answer_ends_it_whatever_it_says() -> None:
    wire, requester = on(Unanswered("lost"), ConditionFailed(None))
    with pytest.raises(ConditionFailed):
        asyncio.run(requester.decide(GET))
    assert len(wire.sent) == 2


@pytest.mark.parametrize("cause", [Unsent("no room"), StoreBusy("the line is long", wait_s=3.0)])
def test_what_was_never_sent_is_busy(cause: Exception) -> None:
    wire, requester = on(Unsent("no room"), cause)
    error = raised(requester.decide(GET))
    assert type(error) is StoreBusy
    assert str(cause) in str(error)
    assert wire.clock.elapsed_s <= PATIENCE_S


@pytest.mark.parametrize("cause", [Unsent("no room"), StoreBusy("the line is long", wait_s=3.0)])
def test_what_was_sent_once_is_of_unknown_outcome(cause: Exception) -> None:
    _, requester = on(Unanswered("lost"), cause)
    error = raised(requester.decide(GET))
    assert type(error) is StoreUnavailable
    assert error.details.get("wait_s") == (3.0 if isinstance(cause, StoreBusy) else None)


def test_a_busy_store_is_told_at_once() -> None:
    wire, requester = on(StoreBusy("the line is long", wait_s=3.0))
    assert raised(requester.decide(GET)).details == {"wait_s": 3.0}
    assert len(wire.sent) == 1


def test_it_is_given_up_when_there_is_no_time_for_one_more_try() -> None:
    wire, requester = on(Unanswered("lost"), takes_s=1.0)
    raised(requester.decide(GET, deadline_s=2.5))
    assert [how["timeout_s"] for how in wire.sent] == pytest.approx([2.5, 1.5, 0.5], abs=0.2)
    assert wire.sent[-1]["timeout_s"] > 0


def test_a_deadline_is_shared_and_nothing_is_sent_after_it() -> None:
    wire, requester = on({"UnprocessedItems": {}}, takes_s=5.0)

    async def calls() -> None:
        deadline_s = requester.deadline_s()
        batch = Request("BatchWriteItem", {"RequestItems": {"t": []}})
        await requester.write([batch, batch], deadline_s=deadline_s)
        await requester.decide(GET, deadline_s=deadline_s)

    assert type(raised(calls())) is StoreBusy
    assert [how["timeout_s"] for how in wire.sent] == [PATIENCE_S, PATIENCE_S - 5.0]


@pytest.mark.parametrize("rank", Rank)
def test_a_certificate_that_is_not_trusted_is_told_at_once_to_who_waits(rank: Rank) -> None:
    wire, requester = on(Unsent(DISTRUST), {"Item": {}})
    if rank in (Rank.VIEW, Rank.LIST):
        assert DISTRUST in str(raised(requester.decide(GET, rank=rank)))
        assert len(wire.sent) == 1
    else:
        assert asyncio.run(requester.decide(GET, rank=rank)) == {"Item": {}}


def test_what_was_left_unprocessed_is_asked_for_again() -> None:
    keys = [{"id": {"S": str(n)}} for n in range(150)]
    left = {"Responses": {"t": keys[:60]}, "UnprocessedKeys": {"t": {"Keys": keys[60:100]}}}
    rest = {"Responses": {"t": keys[60:100]}, "UnprocessedKeys": {}}
    wire, requester = on(left, rest, {"Responses": {"t": keys[100:]}})
    assert asyncio.run(requester.get_items("t", keys)) == keys
    wire, requester = on({"UnprocessedItems": {"t": ["x"]}}, {"UnprocessedItems": {}})
    batch = Request("BatchWriteItem", {"RequestItems": {"t": ["x", "y"]}})
    asyncio.run(requester.write([batch]))
    assert wire.bodies == [{"RequestItems": {"t": ["x", "y"]}}, {"RequestItems": {"t": ["x"]}}]


# Side by side


@pytest.mark.parametrize("descending", [False, True])
def test_rows_of_several_queries_come_in_one_order_page_by_page(descending: bool) -> None:
    """And those of a query whose name is met on the way."""
    rng = Random(5)
    drawn = [{f"{rng.randrange(1000):015d}#{n}" for _ in range(40)} for n in range(6)]
    name = f"{1000:015d}~" if descending else f"{0:015d}!"
    ordered = [sorted(one, reverse=descending) for one in drawn]

    def answers(texts: Sequence[str]) -> list[Page]:
        parts = [texts[:0], texts[:7], texts[7:7], texts[7:]]
        items: list[list[Any]] = [[{"at": {"S": text}} for text in part] for part in parts]
        return [Page(part, GET if n < 3 else None, len(part)) for n, part in enumerate(items)]

    async def main() -> list[str]:
        left = {f"{n}": answers(texts) for n, texts in enumerate(ordered[:-1])}
        left |= {"above": answers([name]), "named": answers(ordered[-1])}

        async def fetch(request: Request) -> Page:
            page = left[request.action].pop(0)
            return page._replace(following=page.following and request)

        def opens(_: str) -> Sequence[Stream]:
            return [Stream(Request("named", {}), "named", lambda _: ())]

        merge = Merge(fetch, Parallel(2), descending=descending)
        await merge.join([Stream(Request(slot, {}), slot, opens) for slot in [*left][:-1]])
        found = [entry.at for size in (3, 50, 1000) for entry in await merge.take(size)]
        assert await merge.take(1) == []
        return found

    everything = [text for texts in ordered for text in texts]
    assert asyncio.run(main()) == sorted(everything, reverse=descending)


def test_only_so_many_run_side_by_side() -> None:
    running: list[int] = []
    most: list[int] = []

    async def call(number: int) -> int:
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0.001)
        running.remove(number)
        return number

    async def main() -> list[list[int]]:
        parallel = Parallel(3)
        return await asyncio.gather(*(parallel.map(call, range(5)) for _ in range(2)))

    assert asyncio.run(main()) == [list(range(5))] * 2
    assert max(most) == 3


# Blocking


@pytest.fixture
def client(thread: LoopThread) -> Client:
    _, requester = on({"Item": {}})
    return Client(thread, requester)


def in_threads(count: int, call: Callable[[], object]) -> list[object]:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(call()), daemon=True) for _ in range(count)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(ENDED_WITHIN_S)
    return found


def test_many_threads_share_one_loop(client: Client) -> None:
    async def loop() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    assert len(set(in_threads(20, lambda: client.run(loop())))) == 1


def test_what_still_runs_when_the_loop_is_closed_is_cancelled() -> None:
    thread, began = LoopThread(), threading.Event()

    async def endless() -> None:
        began.set()
        await asyncio.sleep(3600)

    def call() -> object:
        try:
            return thread.run(endless())
        except BaseException as error:
            return type(error).__name__

    def close() -> None:
        began.wait()
        thread.close()

    other = threading.Thread(target=close)
    other.start()
    assert in_threads(1, call) == ["CancelledError"]
    other.join()
