"""The page where the service is not as in a quiet hour: away, behind a stage, asking for keys."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Console, Open
from tests.browser.service import ApiProcess
from tests.browser.stage import behind_stage
from tests.support.keys import ENTRIES, READ, WRITE, WRONG

pytestmark = pytest.mark.browser

ROWS = "main tbody tr"
AWAY = "The API does not answer."
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def keyed_api(another_api: Callable[..., ApiProcess]) -> ApiProcess:
    return another_api(API_KEYS=",".join(ENTRIES))


def use_key(page: Page, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_an_api_that_goes_away_and_comes_back(
    another_api: Callable[..., ApiProcess], opened: Open, console: Console
) -> None:
    console.allowed.append("ERR_CONNECTION_REFUSED")
    api = another_api()
    before = api.create("Foo", delay_s=400_000)
    page = opened("#/tasks", at=f"{api.url}/")
    expect(page.locator(ROWS, has_text=before[:8])).to_be_visible()
    expect(page.locator("#live")).to_have_text("Live")
    api.stop()
    expect(page.locator("#alert")).to_contain_text(AWAY)
    expect(page.locator("#live")).to_have_text("API away")
    expect(page.locator(ROWS, has_text=before[:8])).to_be_visible()
    api.start()
    after = api.create("Foo", delay_s=400_001)
    expect(page.locator(ROWS, has_text=after[:8])).to_be_visible(timeout=30_000)
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator("#said")).to_have_text("The API answers again.")


def test_an_answer_that_is_cut_short_is_asked_for_again(api: ApiProcess, opened: Open) -> None:
    api.create("Foo", delay_s=86_400)
    page = opened("#/new")
    cut: list[str] = []

    def cut_the_first(route: Route) -> None:
        if cut:
            route.continue_()
            return
        cut.append(route.request.url)
        route.fulfill(status=200, content_type="application/json", body='{"tasks":[')

    page.route("**/task?*", cut_the_first)
    page.get_by_role("link", name="Tasks", exact=True).click()
    expect(page.locator("#alert")).to_contain_text(AWAY)
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator(ROWS).first).to_be_visible()


def test_a_create_without_an_answer_is_sent_again_as_the_same(
    api: ApiProcess, opened: Open, console: Console
) -> None:
    console.allowed.append("ERR_")
    page = opened("#/new")
    page.get_by_label("Type").select_option("Foo")
    page.get_by_label("Unit").select_option("d")
    sent: list[tuple[str | None, str | None]] = []

    def lose_the_first_answer(route: Route) -> None:
        request = route.request
        sent.append((request.header_value("idempotency-key"), request.post_data))
        if len(sent) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/task", lose_the_first_answer)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert").first).to_contain_text(AWAY)
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#explained")).to_contain_text("It is due in 10 days.")
    assert len(sent) == 2
    assert sent[0] == sent[1]


def test_nobody_is_asked_while_nobody_looks(api: ApiProcess, opened: Open) -> None:
    api.create("Foo", delay_s=86_400)
    page = opened("#/tasks")
    asked: list[str] = []
    expect(page.locator(ROWS).first).to_be_visible()
    page.evaluate(HIDE, True)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4_000)
    assert asked == []
    page.evaluate(HIDE, False)
    page.wait_for_timeout(1_000)
    assert asked


def test_below_the_stage_of_a_gateway(api: ApiProcess, opened: Open) -> None:
    with behind_stage(api.port) as url:
        page = opened("#/new", at=url)
        page.get_by_label("Type").select_option("Baz")
        page.get_by_label("now", exact=True).check()
        page.get_by_role("button", name="Create").click()
        expect(page.locator("#explained")).to_have_text("It was completed by attempt 1.")
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#verdict")).not_to_be_empty()
        page.get_by_role("link", name="Tasks", exact=True).click()
        expect(page.locator(ROWS).first).to_be_visible()
        assert page.url == f"{url}#/tasks"
        page.close()


# Keys


def test_a_key_is_asked_for_and_kept_for_the_tab_only(
    keyed_api: ApiProcess, opened: Open, console: Console
) -> None:
    console.allowed.append("401")
    page = opened("#/tasks", at=f"{keyed_api.url}/")
    expect(page.get_by_role("dialog")).to_contain_text("asks for an API key")
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    use_key(page, WRONG)
    expect(page.locator("#key-error")).to_have_text("The API key is not known.")
    use_key(page, "two words")
    expect(page.locator("#key-error")).to_contain_text("A key is one word")
    use_key(page, WRITE)
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.reload()
    expect(page.locator("#live")).to_have_text("Live")
    assert WRITE not in page.url
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    assert WRITE not in page.content()
    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_role("dialog")).to_contain_text("asks for an API key")
    assert page.evaluate("sessionStorage.getItem('scheduler-key')") is None


def test_what_a_key_may_not_do_is_told(
    keyed_api: ApiProcess, opened: Open, console: Console
) -> None:
    console.allowed += ["401", "403"]
    page = opened("#/new", at=f"{keyed_api.url}/")
    page.get_by_role("button", name="Create").click()
    use_key(page, READ)
    page.get_by_role("button", name="Create").click()
    alert = page.get_by_role("alert").first
    expect(alert).to_contain_text("This API key may only read. It takes a key with scope write.")
    page.get_by_role("link", name="Tasks", exact=True).click()
    expect(page.locator("#live")).to_have_text("Live")
