"""What only a server can show that does as the test says: the queue, failures, LoRAs, lost connections."""

import pytest
from playwright.sync_api import expect

import fake
from test_page import APPLE, generate, parameter, start_long


def begin(page):
    page.fill("#prompt", APPLE)
    page.click("#generate")


def test_the_queue_the_steps_and_the_time_left_are_shown(page, site):
    site.hold()
    site.world.switches["queue"] = 2
    begin(page)
    text, bar = page.locator("#running-text"), page.locator("#progress")
    expect(text).to_have_text("Queued, 2 images ahead")
    assert bar.get_attribute("value") is None
    site.world.go(1)
    expect(text).to_have_text("Queued, 1 image ahead")
    site.world.go(1)
    expect(text).to_have_text("Step 0 of 8")
    expect(page.locator("#running-left")).to_have_text("")
    site.world.go(2)
    expect(text).to_have_text("Step 2 of 8")
    expect(page.locator("#running-left")).to_have_text("about 2 s left")
    expect(page.locator("#live")).to_have_text("Drawing, 25 percent")
    assert bar.evaluate("bar => bar.value / bar.max") == pytest.approx(2 / 9)
    assert page.locator("#picture").get_attribute("src").startswith("data:image/jpeg;base64,")
    assert page.title().startswith("2/8")
    site.release()
    expect(page.locator("#outcome")).to_be_visible()
    assert page.title() == "llm-dit"


def test_a_failure_is_told_where_the_picture_would_be(page, site):
    site.world.switches["fail"] = "the diffusion service was lost"
    begin(page)
    expect(page.locator("#failure-text")).to_have_text("the diffusion service was lost")
    expect(page.locator("#generate")).to_be_visible()
    site.world.switches["fail"] = None
    generate(page)


def test_a_full_server_is_told_below_the_button(page, site):
    site.world.switches["busy"] = True
    begin(page)
    expect(page.locator("#form-problem")).to_contain_text("all that this gateway takes. Try again in 5 s.")
    expect(page.locator("#generate")).to_be_visible()


def test_without_loras_the_panel_says_why(page):
    page.click("#loras > summary")
    expect(page.locator("#loras-hint")).to_contain_text("--loras-dir")


def test_loras_go_with_the_request_exactly_as_they_are_ticked(page, site):
    site.world.switches["loras"] = True
    page.reload()
    page.click("#loras > summary")
    boxes = page.locator("#loras-list input[type=checkbox]")
    expect(boxes).to_have_count(3)
    expect(boxes.nth(0)).to_be_checked()
    expect(boxes.nth(2)).to_be_disabled()
    boxes.nth(1).check()
    page.get_by_role("spinbutton", name="Scale of pixel.safetensors").fill("0.5")
    generate(page)
    assert site.world.requests[-1]["loras"] == [
        {"name": "ink.safetensors", "scale": 0.8, "trigger_words": "ink wash"}, {"name": "pixel.safetensors", "scale": 0.5}]
    boxes.nth(0).uncheck()
    boxes.nth(1).uncheck()
    generate(page)
    assert site.world.requests[-1]["loras"] == []
    page.locator("#gallery button").nth(1).click()
    parameter(page, "loras", "#details-body").click()
    expect(boxes.nth(1)).to_be_checked(checked=True)


def test_a_seed_wider_than_a_double_is_not_rounded(page, site):
    site.world.switches["wide_seed"] = True
    generate(page)
    expect(page.locator("#seed")).to_have_value(str(fake.WIDE_SEED))
    page.click("#lock")
    generate(page)
    assert site.world.requests[-1]["seed"] == fake.WIDE_SEED


def test_fields_that_are_empty_are_not_sent(page, site):
    generate(page)
    assert site.world.requests == [{"prompt": APPLE, "width": 256, "height": 256}]


def test_an_encoder_can_be_chosen_when_there_are_several(page, site):
    expect(page.locator("#encoder-field")).to_have_attribute("hidden", "")
    site.world.switches["encoders"] = ["local", "heylookitsanllm"]
    page.reload()
    page.click("#advanced > summary")
    page.select_option("#encoder", "heylookitsanllm")
    generate(page)
    assert site.world.requests[-1]["encoder"] == "heylookitsanllm"
    page.reload()
    expect(page.locator("#encoder")).to_have_value("heylookitsanllm")


def test_without_a_history_the_page_says_so(page, site):
    site.world.switches["history"] = False
    page.reload()
    expect(page.locator("#history-hint")).to_contain_text("--no-history")
    generate(page)
    expect(page.locator("#gallery li")).to_have_count(0)
    site.world.switches["history"] = True


def test_a_service_that_comes_later_is_waited_for(page, site):
    site.world.switches["model"] = False
    page.reload()
    expect(page.locator("#model")).to_contain_text("not ready")
    site.world.switches["model"] = True
    expect(page.locator("#model")).to_contain_text("demo")


def test_a_lost_connection_is_taken_up_again(page, site):
    site.world.switches["cut"] = True
    start_long(page, site)
    site.release()
    expect(page.locator("#outcome")).to_be_visible()


def test_a_job_that_the_server_forgot_leaves_the_page_empty(page):
    page.evaluate("localStorage.setItem('llm-dit.job', '\"00000000-0000-0000-0000-000000000000\"')")
    page.reload()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#generate")).to_be_visible()


def test_a_gateway_that_went_away_is_named(page, site):
    site.world.switches["hang_up"] = True
    begin(page)
    expect(page.locator("#form-problem")).to_contain_text("does not answer")
    site.world.switches["hang_up"] = False
    generate(page)


def test_a_gateway_with_keys_asks_for_one(page, site):
    site.world.switches["key"] = "sesame-0123456789abcdef"
    begin(page)
    dialog = page.locator("#key")
    expect(dialog).to_be_visible()
    page.fill("#key-input", "sesame")
    page.press("#key-input", "Enter")
    expect(page.locator("#key-problem")).to_have_text("The gateway does not know this key.")
    page.fill("#key-input", "sesame-0123456789abcdef")
    page.click("#key button.primary")
    expect(dialog).to_be_hidden()
    expect(page.locator("#outcome")).to_be_visible()
