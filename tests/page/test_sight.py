"""What is in sight, and how one leaves what is open. Runs against the fake and a real server."""

import pytest
from playwright.sync_api import expect

from test_page import APPLE, generate, make_pictures


def test_a_picture_that_somebody_else_deleted_is_told(page, site):
    make_pictures(site, 2)
    page.reload()
    expect(page.locator("#gallery li")).to_have_count(2)
    site.call("DELETE", f"api/history/{site.call('GET', 'api/history')['history'][0]['id']}")
    page.locator("#gallery button").first.click()
    expect(page.locator("#toast")).to_have_text("This image was deleted")
    expect(page.locator("#details")).to_be_hidden()
    expect(page.locator("#gallery li")).to_have_count(1)


def test_an_init_image_that_cannot_be_fetched_is_not_told_as_deleted(page):
    generate(page)
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("button", name="Use as init image").click()
    expect(page.locator("#toast")).to_contain_text("does not answer")


def in_sight(page, selector):
    return page.locator(selector).evaluate("""one => {
        const { top, bottom } = one.getBoundingClientRect();
        return top >= 0 && bottom <= innerHeight;
    }""")


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_picture_is_brought_into_sight(open_page, site, size, motion):
    make_pictures(site, 26)
    page = open_page(*size, reduced_motion=motion)
    page.click("#history-more")
    page.fill("#prompt", APPLE)
    expect(page.locator("#gallery li")).to_have_count(26)
    page.locator("#gallery li").last.scroll_into_view_if_needed()
    assert not in_sight(page, "#empty")
    calls = page.evaluate_handle("""() => {
        const calls = [], real = Element.prototype.scrollIntoView;
        Element.prototype.scrollIntoView = function (options) { calls.push(options.behavior); real.call(this, options); };
        return calls;
    }""")
    site.hold()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#running")).to_be_in_viewport(ratio=1)
    expect(page.locator("#frame")).to_be_in_viewport(ratio=1)
    assert calls.json_value() == ["instant" if motion == "reduce" else "smooth"]
    site.release()
    site.finish()
    expect(page.locator("#outcome")).to_be_visible()
    expect(page.locator("#picture")).to_be_in_viewport(ratio=1)


def test_a_problem_is_brought_into_sight(open_page, site):
    page = open_page(390, 844)
    page.fill("#prompt", APPLE)
    page.route("**/api/jobs", lambda route: route.abort())
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#form-problem")).to_be_in_viewport(ratio=1)


def test_back_closes_what_is_open_and_stays_on_the_page(open_page, site):
    make_pictures(site, 2)
    page = open_page(390, 844)
    generate(page)
    address = page.url
    for opener, dialog in (("#gallery button", "#details"), ("#zoom", "#full"), ("#template-open", "#picker")):
        page.locator(opener).first.click()
        expect(page.locator(dialog)).to_be_visible()
        page.go_back()
        expect(page.locator(dialog)).to_be_hidden()
        assert page.url == address
    page.locator("#gallery button").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#confirm")).to_be_visible()
    page.go_back()
    expect(page.locator("#confirm")).to_be_hidden()
    expect(page.locator("#details")).to_be_visible()
    page.go_back()
    expect(page.locator("#details")).to_be_hidden()
    assert site.call("GET", "api/history")["total"] == 3


def wait_for_dialogs(page, count: int) -> None:
    """Until the history has so many entries of dialogs. The page's own rules forbid `wait_for_function`."""
    for _ in range(500):
        if page.evaluate("history.state?.dialogs ?? 0") == count:
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"not {count} dialogs in the history")


def test_a_dialog_that_is_closed_leaves_no_step_to_go_back(page, site):
    make_pictures(site, 1)
    page.reload()
    for close in ("Escape", "button", "use", "delete"):
        page.locator("#gallery button").first.click()
        expect(page.locator("#details")).to_be_visible()
        wait_for_dialogs(page, 1)
        if close == "Escape":
            page.keyboard.press("Escape")
        elif close == "button":
            page.click("#details [data-close]")
        elif close == "use":
            page.get_by_role("button", name="Use all").click()
        else:
            page.get_by_role("button", name="Delete", exact=True).click()
            page.click("#confirm-yes")
        expect(page.locator("#details")).to_be_hidden()
        wait_for_dialogs(page, 0)
    # After a reload nothing is open.
    page.click("#template-open")
    wait_for_dialogs(page, 1)
    page.reload()
    wait_for_dialogs(page, 0)
