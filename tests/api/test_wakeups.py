"""What the API tells processors of, when, and what it costs."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

import app as entry
from chalicelib.api.endpoints import Api
from chalicelib.api.wakeups import CACHE_S, WakeUps
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable
from chalicelib.store.contract import Heartbeat, Hint
from chalicelib.store.memory import MemoryStore, Tables
from chalicelib.wakeups.message import Seal
from chalicelib.wakeups.sender import Sender
from tests.support.api_service import NOW_MS, Service
from tests.support.fakes import FakeClock, Ids, new_task
from tests.support.hostile_requests import JSON

SETTINGS = Settings()
SEAL = Seal.of(SETTINGS)
WITHIN_S = 5.0


def heartbeat(name: str, wakeup: str | None = "127.0.0.1:1", written_ms: int = NOW_MS) -> Heartbeat:
    return Heartbeat(processor=name, kind="worker", written_ms=written_ms, wakeup=wakeup)


class Store(MemoryStore):
    """Heartbeats can be slow or fail. asked: how often they were asked for."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.asked = 0
        self.came = threading.Condition()
        self.fails = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def wait_asked(self, count: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: self.asked >= count, WITHIN_S)
            assert self.asked == count

    def heartbeats(self) -> Sequence[Heartbeat]:
        with self.came:
            self.asked += 1
            self.came.notify_all()
        assert self.may_answer.wait(WITHIN_S)
        if self.fails:
            raise StoreUnavailable
        return super().heartbeats()


@dataclass
class Kit:
    """What an Api sends. messages: hints, and whether their tasks were committed by then."""

    service: Service
    messages: list[tuple[str, Hint, bool]] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        tables, clock = self.service.tables, self.service.clock
        self.store = Store(tables)
        sender = Sender(SEAL, clock, self._transmit)
        self.api = Api(self.store, clock, Ids(), SETTINGS, sender)
        tables.heartbeats["p"] = heartbeat("p")

    def _transmit(self, datagram: bytes, to: tuple[str, int]) -> None:
        hints = SEAL.opened(datagram, me="p", now_ms=self.service.clock.now_ms())
        with self.came:
            for hint in hints:
                self.messages.append(("p", hint, hint.id in self.service.tables.tasks))
            self.came.notify_all()

    def wait_for(self, count: int) -> set[str]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.messages) >= count, WITHIN_S)
            assert all(is_committed for _, _, is_committed in self.messages)
            return {hint.id for _, hint, _ in self.messages}


@pytest.fixture
def kit(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    kit = Kit(service)
    monkeypatch.setattr(entry, "service", lambda: kit.api)
    yield kit


def test_task_for_now_is_told_of_after_its_commit(kit: Kit) -> None:
    task = kit.service.created()
    assert kit.wait_for(1) == {task["id"]}
    again = [kit.service.created()["id"] for _ in range(3)]
    assert kit.wait_for(4) == {task["id"], *again}
    kit.store.wait_asked(1)
    kit.service.clock.tick(CACHE_S)
    kit.service.created()
    kit.wait_for(5)
    kit.store.wait_asked(2)


def test_batch_is_told_of(kit: Kit) -> None:
    soon = [{"type": "Baz", "send_ts": "2030-01-01T00:00:01Z"}] * 99
    later = {"type": "Baz", "send_ts": "2030-01-01T00:00:03Z"}
    body = json.dumps({"tasks": [*soon, later]}).encode()
    response = kit.service.http.post("/tasks", headers=JSON, body=body)
    ids = [result["task"]["id"] for result in response.json_body["results"]]
    assert kit.wait_for(99) == set(ids[:99])


def test_task_that_is_run_again_is_told_of(kit: Kit) -> None:
    task_id = kit.service.created()["id"]
    kit.wait_for(1)
    kit.service.claim(task_id)
    kit.service.change(task_id, lambda task: task.failed("sorry", now_ms=NOW_MS))
    assert kit.service.http.post(f"/task/{task_id}/retry").status_code == 200
    kit.wait_for(2)
    due_at_ms = kit.service.tables.tasks[task_id].due_at_ms
    assert kit.messages[-1][1].due_at_ms == due_at_ms


def test_what_is_due_later_costs_nothing(kit: Kit) -> None:
    for _ in range(10):
        kit.service.created(send_ts="2030-01-01T00:00:02.001Z")
    assert (kit.store.asked, kit.messages) == (0, [])


def test_create_does_not_wait_for_the_fleet(kit: Kit) -> None:
    """What is created meanwhile is told of when the fleet is known."""
    kit.store.may_answer.clear()
    ids = {kit.service.created()["id"] for _ in range(5)}
    kit.store.wait_asked(1)
    assert kit.messages == []
    kit.store.may_answer.set()
    assert kit.wait_for(5) == ids


def test_known_fleet_is_told_while_it_is_looked_at_again(kit: Kit) -> None:
    first = kit.service.created()["id"]
    kit.wait_for(1)
    kit.service.clock.tick(CACHE_S)
    kit.store.may_answer.clear()
    second = kit.service.created()["id"]
    assert {hint.id for _, hint, _ in kit.messages} == {first, second}
    kit.store.may_answer.set()


def test_create_works_where_the_fleet_cannot_be_known(kit: Kit) -> None:
    kit.store.fails = True
    kit.service.created()
    kit.service.clock.tick(CACHE_S)
    kit.service.created()
    kit.store.wait_asked(2)
    kit.store.fails = False
    kit.service.clock.tick(CACHE_S)
    kit.service.tables.heartbeats["p"] = heartbeat("p", written_ms=kit.service.clock.now_ms())
    assert kit.service.created()["id"] in kit.wait_for(1)


@pytest.mark.parametrize(
    "row",
    [heartbeat("p", None), heartbeat("p", "nowhere"), heartbeat("p", written_ms=NOW_MS - 9_000)],
)
def test_nobody_is_told_without_an_address_or_when_dead(kit: Kit, row: Heartbeat) -> None:
    kit.service.tables.heartbeats["p"] = row
    for _ in range(3):
        kit.service.created()
    assert kit.messages == []


def test_refused_create_tells_nothing(kit: Kit) -> None:
    assert kit.service.create(send_ts="tomorrow").status_code == 400
    assert kit.service.create(type="None").status_code == 400
    assert (kit.store.asked, kit.messages) == (0, [])


def test_without_a_thread_a_create_is_a_create(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        kit.service.created()
    kit.service.clock.tick(CACHE_S)
    kit.service.created()
    kit.wait_for(1)


def test_off_is_off() -> None:
    store = Store(Tables())
    wakeups = WakeUps(store, None, FakeClock(), SETTINGS)
    task = new_task(Ids())
    wakeups.prepare([task.due_at_ms])
    wakeups.tell([task])
    assert store.asked == 0
