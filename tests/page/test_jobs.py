"""A picture under way: cancelled, found again, and each tab's own. Runs against the fake and a real server."""


import pytest
from playwright.sync_api import expect

from test_page import LONG, STEP, parameter, start_long


@pytest.mark.parametrize("how", ["button", "key"])
def test_cancel_stops_the_work(page, site, how):
    start_long(page, site)
    expect(page.locator("#generate")).to_be_hidden()
    if how == "button":
        page.click("#cancel")
    else:
        # Focus went from the one button to the other.
        expect(page.locator("#cancel")).to_be_focused()
        page.keyboard.press("Escape")
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Cancelled")
    assert [job["status"] for job in site.call("GET", "api/jobs")["jobs"]] == ["cancelled"]
    assert site.call("GET", "api/history")["total"] == 0


def asked_to_cancel(page):
    """The requests from now on that would."""
    asked = []
    page.on("request", lambda one: asked.append(one.url) if one.method == "DELETE" else None)
    return asked


@pytest.mark.parametrize("field", ["#prompt", "#seed", "#negative_prompt", "#scheduler"])
def test_escape_in_a_field_is_the_fields(page, site, field):
    page.click("#sampling > summary")
    page.fill("#guidance_scale", "1")
    start_long(page, site)
    asked = asked_to_cancel(page)
    page.focus(field)
    expect(page.locator("#cancel kbd")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#running-text")).to_have_text(STEP)
    expect(page.locator("#cancel")).to_be_enabled()
    assert asked == []


def test_escape_for_an_input_method_or_a_dialog_does_not_cancel(page, site):
    start_long(page, site)
    asked = asked_to_cancel(page)
    press = """more => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true, ...more}))"""
    for more in ({"isComposing": True}, {"keyCode": 229}, {"repeat": True}):
        page.evaluate(press, more)
    page.click("#template-open")
    page.keyboard.press("Escape")
    expect(page.locator("#picker")).to_be_hidden()
    expect(page.locator("#cancel")).to_be_enabled()
    assert asked == []


def test_a_picture_survives_a_restart_of_the_server(page, site):
    start_long(page, site)
    site.stop()
    expect(page.locator("#running-text")).to_have_text("Connection lost; reconnecting")
    expect(page.locator("#model .dot")).to_have_class("dot bad")
    expect(page.locator("#cancel")).to_be_visible()
    site.start()
    site.release()
    site.finish()
    expect(page.locator("#outcome")).to_be_visible()
    expect(parameter(page, "steps")).to_contain_text(LONG)
    expect(page.locator("#gallery li")).to_have_count(1)
    expect(page.locator("#model .dot")).to_have_class("dot")


def test_a_page_that_is_reloaded_before_the_server_is_back_finds_its_picture(page, site):
    start_long(page, site)
    # The page's own files come from the browser's memory, or from a proxy.
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    expect(page.locator("#running-text")).to_have_text("Connection lost; reconnecting")
    page.unroute("**/api/**")
    site.release()
    site.finish()
    expect(page.locator("#outcome")).to_be_visible()


def test_two_tabs_have_their_own_jobs(page, site, open_page):
    start_long(page, site)
    other = open_page(context=page.context)
    expect(other.locator("#empty")).to_be_visible()
    expect(other.locator("#generate")).to_be_visible()
    other.fill("#prompt", "a wizard")
    other.fill("#steps", LONG)
    other.click("#generate")
    expect(other.locator("#cancel")).to_be_enabled()
    assert len(site.call("GET", "api/jobs")["jobs"]) == 2
    page.reload()
    expect(page.locator("#cancel")).to_be_enabled()
    page.locator("#cancel").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#generate")).to_be_visible()
    statuses = {job["status"] for job in site.call("GET", "api/jobs")["jobs"]}
    assert len(statuses) == 2 and "cancelled" in statuses
    expect(other.locator("#cancel")).to_be_visible()
    site.release()
    site.finish()
    expect(other.locator("#outcome")).to_be_visible()
    expect(parameter(other, "prompt")).to_have_text("a wizard")
    other.reload()
    expect(parameter(other, "prompt")).to_have_text("a wizard")
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


def test_two_tabs_have_their_own_settings(page, open_page):
    page.fill("#prompt", "a wizard")
    page.fill("#steps", "5")
    other = open_page(context=page.context)
    # A new tab goes on where the last one was.
    expect(other.locator("#prompt")).to_have_value("a wizard")
    other.fill("#prompt", "a palm tree")
    other.fill("#steps", "7")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a wizard")
    expect(page.locator("#steps")).to_have_value("5")


def test_a_reload_finds_the_job_again(page, site):
    start_long(page, site)
    page.reload()
    expect(page.locator("#running-text")).to_have_text(STEP)
    expect(page.locator("#cancel")).to_be_enabled()
    site.release()
    site.finish()
    expect(page.locator("#outcome")).to_be_visible()
    assert len(site.call("GET", "api/jobs")["jobs"]) == 1
    page.reload()
    expect(page.locator("#outcome")).to_be_visible()
    expect(parameter(page, "steps")).to_contain_text(LONG)
