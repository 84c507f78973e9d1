"""Lists: order, filters, pages and cursors."""

import pytest

from tests.support.api_service import NOW_MS, Service, expect_error


def test_list_is_ordered_by_time_then_id_whatever_the_order_of_creation(service: Service) -> None:
    seconds = [3, 1, 2, 1]
    tasks = [service.created(send_ts=f"2030-01-01T00:00:0{second}Z") for second in seconds]
    in_order = [task["id"] for task in sorted(tasks, key=lambda t: (t["send_ts"], t["id"]))]
    assert service.listed() == (in_order, None)
    assert service.listed("order=asc") == (in_order, None)
    assert service.listed("order=desc") == (in_order[::-1], None)


def test_list_filters_by_state_type_and_time(service: Service) -> None:
    a = service.created(type="Foo", send_ts="2029-12-31T23:00:00Z")["id"]
    b = service.created(type="Bar", send_ts="2029-12-31T23:00:01Z")["id"]
    c = service.created(type="Baz", send_ts="2029-12-31T23:00:02Z")["id"]
    service.change(a, lambda _: service.claim(a).completed("Foo", now_ms=NOW_MS))
    service.claim(b)
    assert service.listed("state=completed")[0] == [a]
    assert service.listed("state=running&state=scheduled")[0] == [b, c]
    assert service.listed("state=running&state=running")[0] == [b]
    assert service.listed("state=failed")[0] == []
    assert service.listed("type=Foo&type=Baz")[0] == [a, c]
    assert service.listed("type=Foo&state=running")[0] == []
    assert service.listed("since=2029-12-31T23:00:01Z")[0] == [b, c]
    assert service.listed("until=2029-12-31T23:00:01Z")[0] == [a]
    assert service.listed("since=2029-12-31T23:00:00Z&until=2029-12-31T23:00:02Z")[0] == [a, b]
    assert service.listed("since=2029-12-31T23:00:01Z&until=2029-12-31T23:00:01Z")[0] == []
    assert service.listed("since=2029-12-31T23:00:00.0001Z&limit=1000")[0] == [b, c]
    assert service.listed("since=2030-01-01T01:00:01%2B02:00&order=desc")[0] == [c, b]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_walk_of_pages_sees_every_task_once(service: Service, order: str) -> None:
    for second in [1, 1, 1, 2, 3, 5, 8]:
        service.created(send_ts=f"2030-01-01T00:00:0{second}Z")
    everything, end = service.listed(f"order={order}")
    assert end is None
    seen, query = [], f"order={order}&limit=2&type=Baz"
    page, cursor = service.listed(query)
    while cursor is not None:
        seen += page
        page, cursor = service.listed(f"{query}&cursor={cursor}")
    assert seen + page == everything


def test_by_default_a_page_has_50_tasks(service: Service) -> None:
    for _ in range(51):
        service.created()
    page, cursor = service.listed()
    assert len(page) == 50
    assert cursor is not None
    assert len(service.listed(f"cursor={cursor}")[0]) == 1
    assert len(service.listed("limit=1000")[0]) == 51


@pytest.fixture
def cursor(service: Service) -> str:
    for _ in range(3):
        service.created()
    cursor = service.listed("limit=1&state=scheduled&type=Foo&type=Baz")[1]
    assert cursor is not None
    return cursor


def test_a_cursor_holds_for_the_same_filter_in_other_words(service: Service, cursor: str) -> None:
    page, _ = service.listed(f"limit=7&type=Baz&type=Foo&type=Foo&state=scheduled&cursor={cursor}")
    assert len(page) == 2


@pytest.mark.parametrize(
    "query",
    [
        "",
        "type=Foo&type=Baz",
        "state=scheduled",
        "state=scheduled&type=Foo",
        "state=scheduled&type=Foo&type=Baz&order=desc",
        "state=scheduled&type=Foo&type=Baz&since=2020-01-01T00:00:00Z",
        "state=scheduled&type=Foo&type=Baz&until=2040-01-01T00:00:00Z",
    ],
)
def test_a_cursor_of_another_list_is_refused(service: Service, cursor: str, query: str) -> None:
    response = service.http.get(f"/task?{query}&cursor={cursor}")
    assert expect_error(response, 400, "InvalidRequest")["field"] == "cursor"


def test_a_cursor_with_any_character_changed_is_refused(service: Service, cursor: str) -> None:
    damaged = [cursor[:i] + c + cursor[i + 1 :] for i in range(len(cursor)) for c in "aZ9_"]
    for text in [*damaged, cursor[:-1], cursor + "A", cursor + "=", cursor * 2]:
        if text != cursor:
            query = f"state=scheduled&type=Foo&type=Baz&cursor={text}"
            expect_error(service.http.get(f"/task?{query}"), 400, "InvalidRequest")
