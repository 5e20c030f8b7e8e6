"""A server that is full, away, restarted, or wants a key; the fake's clock is the page's."""

import pytest
from playwright.sync_api import expect

import fake
from test_fake import begin
from test_page import APPLE, generate, start_long


def test_a_full_queue_is_waited_for(page, site):
    page.clock.install()
    site.world.switches["busy"] = True
    begin(page)
    text = page.locator("#running-text")
    expect(text).to_have_text("Waiting for a place in the queue (try 2)")
    expect(page.locator("#running-left")).to_contain_text("busy with 64 images")
    page.clock.run_for(5000)
    expect(text).to_have_text("Waiting for a place in the queue (try 3)")
    site.world.switches["busy"] = False
    page.clock.run_for(5000)
    expect(page.locator("#outcome")).to_be_visible()
    assert len(site.world.jobs) == 1


def test_the_wait_for_a_place_can_be_cancelled(page, site):
    page.clock.install()
    site.world.switches["busy"] = True
    begin(page)
    expect(page.locator("#running-text")).to_contain_text("(try 2)")
    page.click("#cancel")
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("#empty")).to_be_visible()
    site.world.switches["busy"] = False
    asked = len(site.world.requests)
    page.clock.run_for(60_000)
    generate(page)
    assert len(site.world.requests) == asked + 1


def test_a_request_without_an_answer_is_not_made_twice(page, site):
    """The server took it, and the wait for a place went on since the answer was lost."""
    page.clock.install()
    site.world.switches["busy"] = True
    begin(page)
    expect(page.locator("#running-text")).to_contain_text("(try 2)")
    site.world.switches["busy"] = False
    page.route("**/api/jobs", lambda route: (route.fetch(), route.abort()), times=1)
    page.clock.run_for(5000)
    expect(page.locator("#running-text")).to_have_text("Waiting for the server (try 3)")
    page.clock.run_for(5000)
    expect(page.locator("#outcome")).to_be_visible()
    assert len(site.world.jobs) == 1


def test_a_service_that_comes_later_is_waited_for(page, site):
    site.world.switches["model"] = False
    page.clock.install()
    page.reload()
    expect(page.locator("#model")).to_contain_text("Not ready")
    expect(page.locator("#model .dot")).to_have_class("dot bad")
    site.world.switches["model"] = True
    page.clock.run_for(20_000)
    expect(page.locator("#model")).to_contain_text("demo")
    expect(page.locator("#model .dot")).to_have_class("dot")


def test_the_dot_tells_whether_the_server_answers(page, site):
    page.clock.install()
    page.reload()
    dot, model = page.locator("#model .dot"), page.locator("#model")
    expect(model).to_contain_text("demo")
    expect(dot).to_have_class("dot")
    site.world.stop()
    page.clock.run_for(15_000)
    expect(dot).to_have_class("dot bad")
    expect(model).to_have_text("No answer; trying again")
    site.world.start()
    page.clock.run_for(15_000)
    expect(dot).to_have_class("dot")
    expect(model).to_contain_text("demo")


@pytest.mark.parametrize("event", ["visibilitychange", "online"])
def test_who_comes_back_to_the_page_sees_at_once_how_it_stands(page, site, event):
    expect(page.locator("#model")).to_contain_text("demo")
    site.world.stop()
    page.evaluate("event => (event === 'online' ? window : document).dispatchEvent(new Event(event))", event)
    expect(page.locator("#model .dot")).to_have_class("dot bad")


def test_a_request_that_fails_turns_the_dot(page, site):
    page.clock.install()
    page.reload()
    expect(page.locator("#model")).to_contain_text("demo")
    site.world.stop()
    begin(page)
    expect(page.locator("#form-problem")).to_contain_text("does not answer")
    expect(page.locator("#model .dot")).to_have_class("dot bad")


def test_a_lost_connection_is_taken_up_again(page, site):
    site.world.switches["cut"] = True
    start_long(page, site)
    site.release()
    expect(page.locator("#outcome")).to_be_visible()


def test_a_job_that_the_server_forgot_leaves_the_page_empty(page):
    page.evaluate("sessionStorage.setItem('llm-dit.job', '\"00000000-0000-0000-0000-000000000000\"')")
    page.reload()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#generate")).to_be_visible()
    assert page.evaluate("sessionStorage.getItem('llm-dit.job')") is None


def test_a_job_is_told_as_gone_only_when_the_server_says_so(page, site):
    start_long(page, site)
    site.world.switches["no_stream"] = fake.Problem(502, "the proxy has no server")
    site.world.switches["cut"] = True
    page.clock.install()
    site.world.go(1)
    expect(page.locator("#running-text")).to_have_text("Connection lost; reconnecting")
    page.clock.run_for(20_000)
    expect(page.locator("#running-text")).to_have_text("Connection lost; reconnecting")
    forgotten = site.world.jobs.popitem()[1]
    page.clock.run_for(20_000)
    expect(page.locator("#failure-title")).to_have_text("The server does not have this")
    expect(page.locator("#failure-text")).to_contain_text("no such job")
    forgotten.cancelled = True


def test_a_stream_that_is_refused_is_tried_again(page, site):
    """Such as one of more than 64."""
    site.world.switches["no_stream"] = fake.Problem(503, "too many streams", Retry_After=5)
    page.clock.install()
    site.hold()
    begin(page)
    expect(page.locator("#running-text")).to_have_text("Connection lost; reconnecting")
    site.world.switches["no_stream"] = None
    page.clock.run_for(1000)
    site.world.go(2)
    expect(page.locator("#running-text")).to_have_text("Step 2 of 8")


def test_a_finished_picture_is_waited_for_while_the_server_is_away(page, site):
    page.clock.install()
    site.world.switches["lost_image"] = fake.Problem(503, "the gateway is shutting down")
    site.world.switches["history"] = False
    begin(page)
    expect(page.locator("#running-text")).to_have_text("The image is finished; waiting for the server")
    expect(page.locator("#failure")).to_be_hidden()
    site.world.switches["lost_image"] = None
    page.clock.run_for(1000)
    expect(page.locator("#outcome")).to_be_visible()


def test_a_picture_whose_job_is_forgotten_is_shown_from_the_history(page, site):
    site.world.switches["lost_image"] = fake.Problem(404, "there is no such job")
    generate(page)
    assert "api/history/" in page.locator("#picture").get_attribute("src")


def test_a_picture_that_the_server_says_is_gone_is_told_as_gone(page, site):
    site.world.switches["history"] = False
    site.world.switches["lost_image"] = fake.Problem(410, "the image was removed from the history")
    begin(page)
    expect(page.locator("#failure-title")).to_have_text("The image was deleted")


def test_a_job_that_failed_while_nobody_looked_is_told(page, site):
    start_long(page, site)
    page.goto("about:blank")
    site.world.switches["fail"] = fake.Problem(507, "the device is out of memory")
    job = next(iter(site.world.jobs.values()))
    site.world.start()
    site.release()
    site.finish()
    assert job.status == "failed"
    page.goto(site.base)
    expect(page.locator("#failure-text")).to_have_text("the device is out of memory")


def test_a_gateway_that_went_away_is_named(page, site):
    site.world.switches["hang_up"] = True
    begin(page)
    expect(page.locator("#form-problem")).to_contain_text("does not answer")
    site.world.switches["hang_up"] = False
    generate(page)


KEY = "sesame-0123456789abcdef"


def give_key(page, key=KEY):
    page.fill("#key-input", key)
    page.click("#key button.primary")


def test_a_gateway_with_keys_asks_for_one(page, site):
    site.world.switches["key"] = KEY
    begin(page)
    dialog = page.locator("#key")
    expect(dialog).to_be_visible()
    page.fill("#key-input", "sesame")
    page.press("#key-input", "Enter")
    expect(page.locator("#key-problem")).to_have_text("The gateway does not know this key.")
    give_key(page)
    expect(dialog).to_be_hidden()
    expect(page.locator("#outcome")).to_be_visible()


def test_who_puts_the_key_off_is_asked_again_only_for_what_they_do(page, site):
    site.call("POST", "api/generate", {"prompt": APPLE})
    site.world.switches["key"] = KEY
    page.clock.install()
    page.reload()
    dialog = page.locator("#key")
    expect(dialog).to_be_visible()
    page.click("#key [data-close]")
    expect(dialog).to_be_hidden()
    expect(page.locator("#model")).to_have_text("API key needed")
    expect(page.locator("#model .dot")).to_have_class("dot bad")
    expect(page.locator("#ideas-hint")).to_be_hidden()
    for _ in range(4):
        with page.expect_response("**/health"):
            page.clock.run_for(20_000)
    page.fill("#prompt", "a wizard")
    with page.expect_response("**/api/format-prompt"):
        page.clock.run_for(1000)
    expect(dialog).to_be_hidden()
    page.click("#key-open")
    expect(dialog).to_be_visible()
    give_key(page)
    expect(dialog).to_be_hidden()
    expect(page.locator("#key-open")).to_be_hidden()
    expect(page.locator("#model")).to_contain_text("demo")
    expect(page.locator("#gallery li")).to_have_count(1)
    expect(page.locator("#history-hint")).to_have_text("")
    expect(page.locator("#sizes input").first).to_be_attached()


def test_a_key_that_is_put_off_is_asked_for_with_the_next_picture(page, site):
    site.world.switches["key"] = KEY
    page.reload()
    page.click("#key [data-close]")
    begin(page)
    expect(page.locator("#key")).to_be_visible()
    give_key(page)
    expect(page.locator("#outcome")).to_be_visible()
    expect(page.locator("#gallery li")).to_have_count(1)


def test_a_job_under_way_is_found_again_once_there_is_a_key(page, site):
    start_long(page, site)
    site.world.switches["key"] = KEY
    page.reload()
    page.click("#key [data-close]")
    expect(page.locator("#empty")).to_be_visible()
    page.click("#key-open")
    give_key(page)
    expect(page.locator("#running-text")).to_have_text("Step 3 of 200")
