"""Each view, over the real service: what is shown, and what can be done there."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from chalicelib.config import Settings
from tests.browser.conftest import Console, Open
from tests.browser.service import MARKUP, ApiProcess, prepared
from tests.conftest import embedded_engine

pytestmark = pytest.mark.browser

ROWS = "main tbody tr"


@pytest.fixture
def empty_store() -> Iterator[Settings]:
    with embedded_engine() as url:
        yield prepared(url)


def heading(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def filled(page: Page, **fields: str) -> None:
    for label, value in fields.items():
        page.get_by_label(re.compile(f"^{label}")).fill(value)


# Overview


def test_the_first_visit_shows_how_to_create_a_task(
    empty_store: Settings, another_api: Callable[..., ApiProcess], opened: Open
) -> None:
    alone = another_api(empty_store)
    page = opened(at=f"{alone.url}/")
    expect(page.get_by_role("heading", name="No tasks yet")).to_be_visible()
    expect(page.get_by_label("Command that creates a task")).to_contain_text(
        f"curl '{alone.url}/task'"
    )
    expect(page.locator("#verdict")).to_contain_text("No processor is alive, so nothing runs.")
    page.get_by_role("link", name="Tasks", exact=True).click()
    page.get_by_role("link", name="Create a task").last.click()
    heading(page, "Create a task")


def test_the_overview_tells_what_ran_what_failed_and_who_is_alive(
    failed: Iterator[str], opened: Open
) -> None:
    next(failed)
    page = opened()
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("failed for good in the last 15 minutes", timeout=25_000)
    failures = page.get_by_role("table", name="Failures of the last hour")
    expect(failures.get_by_role("row").nth(1)).to_contain_text("ValueError: not yet")
    processors = page.get_by_role("table", name="Live processors")
    expect(processors.get_by_role("row")).to_have_count(4)
    expect(processors.get_by_role("row").nth(1)).to_contain_text(re.compile(r"\d+ of 100"))
    for name in ("15 min", "24 h", "1 h"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        expect(
            page.get_by_role("img", name=re.compile("Attempts by outcome.*failed"))
        ).to_be_visible()
    page.get_by_text("Figures as a table").first.click()
    figures = page.get_by_role("table", name="Throughput")
    expect(figures.get_by_role("row")).not_to_have_count(1)
    failures.get_by_role("link").first.click()
    heading(page, re.compile("Mending"))


# Tasks


def test_tasks_are_filtered_and_the_address_keeps_the_filters(
    api: ApiProcess, opened: Open
) -> None:
    later = api.create("Foo", delay_s=86_400)
    done = api.create("Baz")
    api.wait_until(done, "completed")
    page = opened("#/tasks")
    expect(page.locator(ROWS, has_text=later[:8])).to_be_visible()
    page.get_by_label("State").select_option("completed")
    expect(page.locator(ROWS, has_text=done[:8])).to_be_visible()
    expect(page.locator(ROWS, has_text=later[:8])).to_have_count(0)
    page.get_by_label("Type").select_option("Foo")
    expect(page.locator(ROWS, has_text=done[:8])).to_have_count(0)
    assert page.url.endswith("#/tasks?state=completed&type=Foo")
    page.reload()
    expect(page.get_by_label("State")).to_have_value("completed")
    expect(page.get_by_label("Type")).to_have_value("Foo")


def test_tasks_are_filtered_by_time_in_the_viewer_s_zone(api: ApiProcess, opened: Open) -> None:
    summer = api.create("Foo", delay_s=86_400)
    page = opened("#/tasks?since=2999-01-01T00:00:00.000Z")
    expect(page.get_by_text("No task fits.")).to_be_visible()
    expect(page.get_by_label("Due from")).to_have_value("2999-01-01T01:00")
    page.get_by_role("link", name="Take the filters away").click()
    expect(page.locator(ROWS, has_text=summer[:8])).to_be_visible()
    page.get_by_label("Due before").fill("2020-06-01T12:00:00")
    expect(page.get_by_text("No task fits.")).to_be_visible()
    assert "until=2020-06-01T10%3A00%3A00.000Z" in page.url


def test_the_list_goes_on_by_pages_and_is_live(api: ApiProcess, opened: Open) -> None:
    for n in range(30):
        api.create("Foo", delay_s=200_000 + n)
    page = opened("#/tasks?state=scheduled&type=Foo")
    expect(page.locator(ROWS)).to_have_count(25)
    first = page.locator(ROWS).first.inner_text()
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("link", name="First page")).to_be_visible()
    expect(page.locator(ROWS).first).not_to_have_text(first)
    page.get_by_role("link", name="First page").click()
    newest = api.create("Foo", delay_s=900_000)
    expect(page.locator(ROWS).first).to_contain_text(newest[:8])


def test_a_task_is_found_by_its_id(api: ApiProcess, opened: Open) -> None:
    task_id = api.create("Foo", delay_s=86_400)
    page = opened("#/tasks")
    search = page.get_by_label("Find a task")
    search.fill(task_id[:8])
    search.press("Enter")
    expect(page.locator("#search-error")).to_contain_text("A whole id is needed")
    search.fill(f" {task_id.upper()} ")
    search.press("Enter")
    heading(page, f"Foo {task_id[:8]}")
    expect(page.locator("#explained")).to_have_text("It is due in 24 hours.")


# One task


def test_one_task_tells_its_life_and_is_run_again(failed: Iterator[str], opened: Open) -> None:
    task_id = next(failed)
    page = opened(f"#/task/{task_id}")
    expect(page.locator("#explained")).to_have_text("It failed for good with attempt 3.")
    items = page.locator(".timeline > li")
    expect(items).to_have_count(6)
    expect(items.nth(2)).to_contain_text("Attempt 1 retried")
    expect(items.nth(4)).to_contain_text(MARKUP)
    expect(page.get_by_label("Payload")).to_contain_text("onerror")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#explained")).to_have_text("It was completed by attempt 4.")
    expect(page.get_by_label("Result")).to_have_text(f"mended {MARKUP}")
    expect(page.get_by_role("button", name="Run again")).to_be_hidden()
    assert page.locator("main img, main script").count() == 0
    assert "owned" not in page.title()


def test_markup_stays_text_in_lists_and_addresses(
    api: ApiProcess, failed: Iterator[str], opened: Open, console: Console
) -> None:
    console.allowed += ["400", "404"]
    task_id = next(failed)
    page = opened("#/tasks?state=failed")
    expect(page.locator(ROWS, has_text=task_id[:8])).to_contain_text(MARKUP)
    page.goto(f"{api.url}/#/")
    expect(page.locator(ROWS, has_text="Mending").first).to_contain_text(MARKUP)
    for hash in (f"#/tasks?type={MARKUP}&state={MARKUP}", f"#/task/{MARKUP}", f"#/{MARKUP}"):
        page.goto(f"{api.url}/{hash}")
        expect(page.locator("main")).not_to_contain_text("Loading …")
        assert page.locator("main img, main script").count() == 0, hash
        assert "owned" not in page.title()


def test_deleting_asks_first(api: ApiProcess, opened: Open) -> None:
    task_id = api.create("Foo", delay_s=86_400)
    page = opened(f"#/task/{task_id}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert api.task(task_id)["id"] == task_id
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    heading(page, "Tasks")
    expect(page.locator("#said")).to_have_text("The task was deleted.")
    assert api.task(task_id)["Type"] == "TaskNotFound"


def test_what_cannot_be_deleted_or_found_is_told(
    api: ApiProcess, opened: Open, console: Console
) -> None:
    console.allowed += ["409", "404"]
    task_id = api.create("Foo")
    api.wait_until(task_id, "running")
    page = opened(f"#/task/{task_id}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("alert").first).to_contain_text(
        "It was not deleted. The task is running and cannot be deleted now."
    )
    expect(page.locator("#explained")).to_have_text("It was completed by attempt 1.")
    expect(page.get_by_role("alert").first).to_be_visible()
    page.goto(f"{api.url}/#/task/34560e36-5c0a-49a7-8280-62131ecc8202")
    expect(page.locator("#explained")).to_contain_text("There is no such task.")


def test_a_task_is_copied_as_curl(api: ApiProcess, opened: Open) -> None:
    task_id = api.create("Mending", delay_s=86_400, payload={"note": "it's"})
    page = opened(f"#/task/{task_id}", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl '{api.url}/task'")
    assert """"note":"it'\\''s\"""" in copied


def test_where_nothing_can_be_copied_the_command_is_shown(api: ApiProcess, opened: Open) -> None:
    page = opened("#/new")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_label("Type").select_option("Baz")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"curl '{api.url}/task'")
    expect(page.get_by_role("dialog")).to_contain_text('"type":"Baz"')


# Create


def test_a_task_created_in_the_form_is_seen_to_run(opened: Open) -> None:
    page = opened("#/new")
    page.get_by_label("Type").select_option("Foo")
    page.get_by_label("How long from now").fill("2")
    page.get_by_role("button", name="Create").click()
    heading(page, re.compile("Foo"))
    expect(page.locator("#explained")).to_contain_text("It is due in")
    expect(page.locator("#explained")).to_contain_text("It runs, attempt 1")
    expect(page.locator("#explained")).to_have_text("It was completed by attempt 1.")
    expect(page.get_by_label("Result")).to_contain_text("Foo ")


def test_a_payload_is_asked_for_by_its_schema(opened: Open, console: Console) -> None:
    console.allowed += ["400"]
    page = opened("#/new")
    page.get_by_label("Type").select_option("Paint")
    hint = page.locator("[id='field-payload.since-hint']")
    expect(hint).to_have_text("a time, such as 2030-01-31T12:00:00Z")
    page.get_by_role("button", name="Create").click()
    colour = page.get_by_label("colour")
    expect(page.locator("[id='field-payload.colour-error']")).to_contain_text("missing")
    expect(colour).to_have_attribute("aria-invalid", "true")
    expect(colour).to_be_focused()
    colour.select_option("green")
    filled(page, size="11")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("[id='field-payload.size-error']")).to_contain_text("at most 10")
    filled(page, size="7", title='a "b"', tags="red")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("[id='field-payload.tags-error']")).to_contain_text("This is no JSON")
    filled(page, tags='["x", "y"]', since="2030-01-31T12:00:00Z")
    page.get_by_label("is_framed").select_option("true")
    page.get_by_label("now", exact=True).check()
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_label("Result")).to_contain_text("""a "b" green 7 True 2030-01-31""")


def test_a_calendar_time_is_of_the_viewer_and_utc_stands_beside_it(opened: Open) -> None:
    page = opened("#/new")
    page.get_by_label("Type").select_option("Baz")
    page.get_by_label("Time in Europe/Berlin").fill("2030-07-01T14:00:00")
    expect(page.locator("#at-utc")).to_have_text("Europe/Berlin, 2030-07-01 12:00:00 UTC")
    page.get_by_role("button", name="Create").click()
    heading(page, re.compile("Baz"))
    expect(page.locator(".facts")).to_contain_text("2030-07-01 12:00:00 UTC")
    expect(page.locator(".facts")).to_contain_text("2030-07-01 14:00:00")


def test_a_time_that_is_none_is_told_at_its_field(opened: Open) -> None:
    page = opened("#/new")
    page.get_by_label("How long from now").fill("soon")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#field-send_ts-error")).to_have_text("Give a number, such as 10.")
    expect(page.get_by_label("How long from now")).to_be_focused()
