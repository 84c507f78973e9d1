"""Delete a task: the lease, and whose clock says that it is over."""

from dataclasses import replace
from email.utils import formatdate

import pytest

from chalicelib.attempts import LEASE_MS
from tests.support.api_service import NOW_MS, Service, expect_error


def test_delete_answers_with_nothing_and_happens_once(service: Service) -> None:
    task_id = service.created()["id"]
    response = service.http.delete(f"/task/{task_id}")
    assert (response.status_code, response.body) == (204, b"")
    expect_error(service.http.delete(f"/task/{task_id}"), 404, "TaskNotFound")


def test_delete_of_a_running_task_tells_when_to_try_again(service: Service) -> None:
    task_id = service.created()["id"]
    service.claim(task_id)
    service.clock.tick(2.5)
    response = service.http.delete(f"/task/{task_id}")
    details = expect_error(response, 409, "TaskRunning")
    assert details == {"id": task_id, "attempt": 1, "processor": "p", "retry_after_s": 8}
    assert response.headers["Retry-After"] == "8"
    service.clock.tick(LEASE_MS / 1000 - 2.5)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


def hear(service: Service, by_ms: int = 60_000) -> None:
    """The store answers a few times; then this machine's clock is set, or is wrong from now on."""
    for _ in range(21):
        dated = formatdate((NOW_MS + service.clock.elapsed_s * 1000) // 1000, usegmt=True)
        service.api.clock.node("a").hear(dated.encode(), service.clock.monotonic_s(), is_exact=True)
        service.clock.tick(0.05)
    service.clock.start_ms += by_ms


@pytest.mark.parametrize("before_s, after_s", [(60, 0), (0, 60), (0, 0.9)])
def test_a_clock_that_is_ahead_deletes_no_running_task(
    service: Service, before_s: float, after_s: float
) -> None:
    service.clock.start_ms += round(before_s * 1000)
    hear(service, round(after_s * 1000))
    task_id = service.created()["id"]
    held = service.claim(task_id)
    lease_ms = NOW_MS + round(service.clock.elapsed_s * 1000) + LEASE_MS
    service.change(task_id, lambda _: replace(held, due_at_ms=lease_ms))
    service.clock.tick(LEASE_MS / 1000 - 0.5)
    details = expect_error(service.http.delete(f"/task/{task_id}"), 409, "TaskRunning")
    assert details["retry_after_s"] == 1
    service.clock.tick(0.7)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


def test_a_lease_that_may_still_hold_is_not_over(service: Service) -> None:
    """All that one Date tells is the second; the wall clock may be right, or ahead."""
    dated = formatdate(NOW_MS // 1000 + 10, usegmt=True).encode()
    task_id = service.created()["id"]
    service.claim(task_id)
    service.clock.tick(LEASE_MS / 1000 + 0.4)
    service.api.clock.node("a").hear(dated, service.clock.monotonic_s(), is_exact=True)
    service.change(task_id, lambda held: replace(held, due_at_ms=NOW_MS + LEASE_MS + 300))
    expect_error(service.http.delete(f"/task/{task_id}"), 409, "TaskRunning")
    service.clock.tick(0.4)
    assert service.http.delete(f"/task/{task_id}").status_code == 204


@pytest.mark.parametrize("off_s", [60, -60])
def test_a_task_in_the_past_is_due_at_once_whatever_the_clock_shows(
    service: Service, off_s: int
) -> None:
    hear(service, off_s * 1000)
    task = service.created(send_ts="2029-12-31T23:59:00Z")
    now_ms = NOW_MS + service.clock.elapsed_s * 1000
    assert abs((service.tables.tasks[task["id"]].due_at_ms or 0) - now_ms) <= 60


def test_a_finished_task_can_be_deleted(service: Service) -> None:
    task_id = service.created()["id"]
    held = service.claim(task_id)
    service.change(task_id, lambda _: held.completed("Baz 1", now_ms=NOW_MS))
    assert service.http.delete(f"/task/{task_id}").status_code == 204
    assert service.listed() == ([], None)
