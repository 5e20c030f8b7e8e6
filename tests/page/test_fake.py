"""What only a server can show that does as the test says: the queue, failures, LoRAs, what a model says."""

import json

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
    site.world.switches["fail"] = fake.Problem(502, "the diffusion service was lost")
    begin(page)
    expect(page.locator("#failure-text")).to_have_text("the diffusion service was lost")
    expect(page.locator("#generate")).to_be_visible()
    site.world.switches["fail"] = None
    generate(page)


@pytest.mark.parametrize("status, title", [(400, "These settings do not work"), (502, "A part of the server was lost"),
                                           (500, "The server made a mistake")])
def test_a_failure_has_a_title_in_a_persons_words(page, site, status, title):
    problem = fake.Problem(status, "loras: ink.safetensors does not fit this model")
    problem.body["request_id"] = "0b5e9c0e"
    site.world.switches["fail"] = problem
    begin(page)
    expect(page.locator("#failure-title")).to_have_text(title)
    expect(page.locator("#failure-text")).to_have_text(problem.body["detail"])
    # Whoever asks the operator needs it; a mistake of one's own does not.
    expect(page.locator("#failure-id")).to_have_text("Request id: 0b5e9c0e" if status >= 500 else "")


def test_without_loras_the_panel_says_why(page):
    page.click("#loras > summary")
    expect(page.locator("#loras-hint")).to_contain_text("--loras-dir")


def test_the_default_set_of_the_server_is_not_shown_as_a_choice(page, site):
    site.world.switches["loras"] = True
    page.reload()
    page.click("#loras > summary")
    boxes = page.locator("#loras-list input[type=checkbox]")
    expect(boxes).to_have_count(3)
    assert [box.is_checked() for box in boxes.all()] == [False, False, False]
    expect(page.locator("#loras-default")).to_be_checked()
    expect(page.locator("#loras-default-row")).to_contain_text("The server’s default set")
    expect(page.locator("#loras-default-row")).to_contain_text("ink.safetensors 0.8")
    expect(page.locator("#loras-text")).to_have_text("server default")
    generate(page)
    assert "loras" not in site.world.requests[-1]
    expect(parameter(page, "loras")).to_contain_text("ink.safetensors 0.8")
    page.uncheck("#loras-default")
    generate(page)
    assert site.world.requests[-1]["loras"] == []
    expect(parameter(page, "loras")).to_have_count(0)
    page.reload()
    expect(page.locator("#loras-default")).not_to_be_checked()
    page.click("#defaults")
    expect(page.locator("#loras-default")).to_be_checked()


def test_loras_go_with_the_request_exactly_as_they_are_ticked(page, site):
    site.world.switches["loras"] = True
    page.reload()
    page.click("#loras > summary")
    boxes = page.locator("#loras-list input[type=checkbox]")
    expect(boxes).to_have_count(3)
    expect(boxes.nth(2)).to_be_disabled()
    boxes.nth(0).check()
    expect(page.locator("#loras-default")).not_to_be_checked()
    boxes.nth(1).check()
    page.get_by_role("spinbutton", name="Scale of pixel.safetensors").fill("0.5")
    generate(page)
    assert site.world.requests[-1]["loras"] == [
        {"name": "ink.safetensors", "scale": 1, "trigger_words": "ink wash"}, {"name": "pixel.safetensors", "scale": 0.5}]
    boxes.nth(0).uncheck()
    boxes.nth(1).uncheck()
    generate(page)
    assert site.world.requests[-1]["loras"] == []
    page.locator("#gallery button").nth(1).click()
    parameter(page, "loras", "#details-body").click()
    expect(boxes.nth(1)).to_be_checked(checked=True)
    page.keyboard.press("Escape")
    # The newest was made without.
    page.locator("#gallery button").nth(0).click()
    page.locator("#details").get_by_role("button", name="Use all").click()
    expect(boxes.nth(1)).not_to_be_checked()
    expect(page.locator("#loras-default")).not_to_be_checked()


def test_loras_that_the_server_does_not_have_are_named(page, site):
    site.world.switches["loras"] = True
    site.call("POST", "api/generate", {"prompt": APPLE, "loras": [{"name": "gone.safetensors"}, {"name": "pixel.safetensors"}]})
    page.reload()
    page.locator("#gallery button").first.click()
    page.get_by_role("button", name="Use all").click()
    expect(page.locator("#toast")).to_have_text("In use, except gone.safetensors")


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


def test_a_copy_of_a_tab_leaves_the_job_to_the_tab(page, site, open_page):
    start_long(page, site)
    job = page.evaluate("sessionStorage.getItem('llm-dit.job')")
    copy = open_page(context=page.context, before=f"sessionStorage.setItem('llm-dit.job', {json.dumps(job)})")
    expect(copy.locator("#generate")).to_be_visible()
    expect(copy.locator("#empty")).to_be_visible()
    copy.keyboard.press("Escape")
    assert [one.status for one in site.world.jobs.values()] == ["running"]
    page.reload()
    expect(page.locator("#cancel")).to_be_visible()


def test_a_model_says_what_it_can_draw(page, site):
    about = fake.ABOUT
    expect(page.locator("#empty-about")).to_have_text(about["description"])
    expect(page.locator("#ideas button")).to_have_text(about["examples"])
    page.click("#about-open")
    expect(page.locator("#about")).to_contain_text(about["description"])
    page.click(f"#about-examples button:has-text('{about['examples'][1]}')")
    expect(page.locator("#about")).to_be_hidden()
    expect(page.locator("#prompt")).to_have_value(about["examples"][1])
    site.world.switches["about"] = {"description": None, "examples": []}
    page.reload()
    expect(page.locator("#ideas button")).not_to_have_count(0)
    expect(page.locator("#about-open")).to_be_hidden()
    expect(page.locator("#empty-about")).to_have_text("")
