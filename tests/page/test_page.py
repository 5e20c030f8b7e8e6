"""What a person does on the page. Runs against the fake and against a real server."""

import base64
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

GOLDEN = Path(__file__).resolve().parents[1] / "goldens/pictures/00_256x256_seed1_plain.png"
APPLE = "a red apple on a blue background"
# Long enough to be met under way on any machine.
LONG = "200"
STEP = re.compile(r"Step \d+ of 200")


def generate(page, prompt=APPLE):
    page.fill("#prompt", prompt)
    page.click("#generate")
    expect(page.locator("#outcome")).to_be_visible()
    expect(page.locator("#generate")).to_be_visible()


def start_long(page, site):
    site.hold()
    page.fill("#prompt", APPLE)
    page.fill("#steps", LONG)
    page.click("#generate")
    if site.world:
        site.world.go(3)
    expect(page.locator("#running-text")).to_have_text(STEP)


def parameter(page, name, root="#outcome"):
    return page.locator(f"{root} [data-name={name}]")


def picture(page):
    """The bytes of the picture that is shown."""
    return page.request.get(page.locator("#picture").get_attribute("src")).body()


def make_pictures(site, count):
    for seed in range(count):
        site.call("POST", "api/generate", {"prompt": f"a red apple {seed}", "seed": seed, "steps": 1})


def has_no_sideways_scroll(page):
    return page.evaluate("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")


def test_a_prompt_becomes_a_picture(page, site):
    page.fill("#prompt", APPLE)
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#outcome")).to_be_visible()
    expect(page.locator("#live")).to_have_text("The image is ready")
    expect(page.locator("#picture")).to_have_attribute("alt", APPLE)
    assert page.locator("#picture").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [256, 256]
    expect(parameter(page, "prompt")).to_have_text(APPLE)
    expect(parameter(page, "steps")).to_contain_text("8")
    seed = page.locator("#seed").input_value()
    assert seed.isdigit()
    expect(parameter(page, "seed")).to_contain_text(seed)
    with page.expect_download() as download:
        page.click("#outcome a[download]")
    assert download.value.suggested_filename == f"a-red-apple-on-a-blue-background-{seed}.png"
    assert download.value.path().read_bytes() == picture(page)
    expect(page.locator("#gallery li")).to_have_count(1)
    assert site.call("GET", "api/history")["total"] == 1


def test_a_locked_seed_makes_the_same_picture_and_an_open_one_another(page):
    generate(page)
    first, seed = picture(page), page.locator("#seed").input_value()
    page.click("#lock")
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")
    generate(page)
    expect(page.locator("#gallery li")).to_have_count(2)
    assert page.locator("#seed").input_value() == seed and picture(page) == first
    page.click("#lock")
    generate(page)
    expect(page.locator("#gallery li")).to_have_count(3)
    assert page.locator("#seed").input_value() != seed
    page.click("#dice")
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")


def test_the_history_is_paged_opened_and_deleted(page, site):
    make_pictures(site, 26)
    page.reload()
    tiles = page.locator("#gallery li")
    expect(tiles).to_have_count(24)
    expect(page.locator("#history-count")).to_have_text("26")
    page.click("#history-more")
    expect(tiles).to_have_count(26)
    expect(page.locator("#history-more")).to_be_hidden()

    tiles.first.locator("button").click()
    body = "#details-body"
    expect(parameter(page, "prompt", body)).to_have_text("a red apple 25")
    expect(page.locator("#details-newer")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(parameter(page, "prompt", body)).to_have_text("a red apple 24")
    parameter(page, "seed", body).click()
    expect(page.locator("#seed")).to_have_value("24")
    expect(page.locator("#prompt")).to_have_value("")

    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#details")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.click("#confirm-yes")
    expect(tiles).to_have_count(25)
    assert site.call("GET", "api/history")["total"] == 25

    page.click("#history-clear")
    page.click("#confirm-yes")
    expect(tiles).to_have_count(0)
    expect(page.locator("#history-hint")).to_be_visible()
    assert site.call("GET", "api/history")["total"] == 0


def test_all_of_a_picture_can_be_used_again(page, site):
    body = {"prompt": "a wizard", "seed": 7, "steps": 3, "width": 320, "height": 192, "guidance_scale": 2.5,
            "negative_prompt": "a hat", "shift": 2, "scheduler": "unipc", "template": "noir"}
    site.call("POST", "api/generate", body)
    page.reload()
    page.locator("#gallery button").first.click()
    page.get_by_role("button", name="Use all").click()
    expect(page.locator("#details")).to_be_hidden()
    for name in ("prompt", "seed", "steps", "width", "height", "guidance_scale", "negative_prompt", "shift", "scheduler"):
        expect(page.locator(f"#{name}")).to_have_value(str(body[name]))
    expect(page.locator("#template-name")).to_have_text("noir")
    page.click("#generate")
    expect(page.locator("#gallery li")).to_have_count(2)
    first, second = (site.call("GET", f"api/history/{one['id']}/image") for one in site.call("GET", "api/history")["history"])
    assert first == second


def test_a_template_is_found_previewed_and_used(page):
    page.fill("#prompt", APPLE)
    page.click("#template-open")
    expect(page.locator("#picker-list li")).to_have_count(144)
    page.locator("#picker-categories label", has_text="style").click()
    expect(page.locator("#picker-list li")).to_have_count(37)
    page.fill("#picker-search", "crime film")
    expect(page.locator("#picker-list li")).to_have_count(1)
    preview = page.locator("#picker-about")
    expect(preview).to_contain_text("<|im_start|>system")
    expect(preview).to_contain_text(APPLE)
    expect(preview).to_contain_text(re.compile(r"\d+ of 512 tokens"))
    page.fill("#picker-search", "no such words")
    expect(page.locator("#picker-use")).to_be_disabled()
    page.fill("#picker-search", "")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.fill("#picker-search", "noir")
    page.keyboard.press("Enter")
    expect(page.locator("#picker")).to_be_hidden()
    expect(page.locator("#template-name")).to_have_text("noir")
    generate(page)
    expect(parameter(page, "template")).to_contain_text("noir")
    page.click("#template-clear")
    expect(page.locator("#template-name")).to_have_text("Template")


def test_tokens_follow_the_prompt(page):
    count = lambda: int(page.locator("#tokens").text_content().split()[0])
    empty = count()
    page.fill("#prompt", "one two three")
    expect(page.locator("#tokens")).not_to_have_text(f"{empty} of 512 tokens")
    assert count() > empty
    page.click("#advanced > summary")
    page.fill("#system_prompt", "You draw.")
    expect(page.locator("#formatted")).to_contain_text("<|im_start|>system\nYou draw.<|im_end|>")
    expect(page.locator("#token-parts")).to_contain_text("system")


def test_a_wrong_value_is_told_beside_its_field(page):
    page.click("#generate")
    expect(page.locator("#problem-prompt")).to_have_text("the prompt is empty; describe the image")
    expect(page.locator("#prompt")).to_be_focused()
    page.fill("#prompt", APPLE)
    expect(page.locator("#problem-prompt")).to_have_count(0)
    page.fill("#steps", "500")
    page.click("#generate")
    expect(page.locator("#problem-steps")).to_contain_text("500")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#steps")).to_be_focused()
    page.fill("#steps", "")
    page.locator("#sizes label", has_text="Custom").click()
    page.fill("#width", "250")
    page.click("#generate")
    expect(page.locator("#problem-width")).to_contain_text("240 and 256")
    expect(page.locator("#generate")).to_be_visible()
    page.fill("#width", "256")
    page.fill("#seed", "one")
    page.click("#generate")
    expect(page.locator("#problem-seed")).to_be_visible()


def test_text_stays_text(page):
    prompt = '<img src=x onerror="document.title=1"> </script> "seed":"12"'
    generate(page, prompt)
    expect(parameter(page, "prompt")).to_have_text(prompt)
    assert page.title() == "llm-dit"


def drop(page, event, target, name="apple.png"):
    data = base64.b64encode(GOLDEN.read_bytes()).decode()
    page.evaluate("""([event, target, name, data]) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type: 'image/png'}));
        const made = event === 'paste' ? new ClipboardEvent(event, {clipboardData: transfer, bubbles: true, cancelable: true})
            : new DragEvent(event, {dataTransfer: transfer, bubbles: true, cancelable: true});
        document.querySelector(target).dispatchEvent(made);
    }""", [event, target, name, data])


def test_a_picture_is_chosen_dropped_or_pasted_to_start_from(page):
    page.click("#source > summary")
    expect(page.locator("#strength")).to_be_hidden()
    page.set_input_files("#file", GOLDEN)
    expect(page.locator("#strength")).to_be_visible()
    expect(page.locator("#source-text")).to_have_text("256 × 256")
    expect(page.locator("#strength")).to_have_attribute("placeholder", "0.6")
    page.fill("#strength", "0.5")
    generate(page)
    expect(parameter(page, "strength")).to_contain_text("0.5")
    page.click("#source-clear")
    expect(page.locator("#strength")).to_be_hidden()
    drop(page, "dragenter", "#stage")
    expect(page.locator("#catch")).to_be_visible()
    drop(page, "drop", "#stage")
    expect(page.locator("#catch")).to_be_hidden()
    expect(page.locator("#strength")).to_be_visible()
    page.click("#source-clear")
    drop(page, "paste", "#prompt")
    expect(page.locator("#strength")).to_be_visible()
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#problem-image")).to_contain_text("notes.txt")
    page.get_by_role("button", name="Use as init image").click()
    expect(page.locator("#problem-image")).to_have_count(0)


def test_settings_stay_after_a_reload_and_can_be_reset(page):
    page.fill("#prompt", "a wizard")
    page.fill("#steps", "5")
    page.locator("#sizes label", has_text="16:9").click()
    page.click("#sampling > summary")
    page.select_option("#scheduler", "unipc")
    page.fill("#guidance_scale", "3")
    page.fill("#negative_prompt", "a hat")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a wizard")
    expect(page.locator("#steps")).to_have_value("5")
    expect(page.locator("#sizes input[value='16:9']")).to_be_checked()
    expect(page.locator("#scheduler")).to_have_value("unipc")
    expect(page.locator("#negative_prompt")).to_have_value("a hat")
    generate(page, "a wizard")
    expect(parameter(page, "scheduler")).to_contain_text("unipc")
    expect(parameter(page, "negative_prompt")).to_contain_text("a hat")
    page.click("#defaults")
    expect(page.locator("#steps")).to_have_value("")
    expect(page.locator("#scheduler")).to_have_value("")
    expect(page.locator("#prompt")).to_have_value("a wizard")


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    lightness = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
    assert not lightness()
    page.click("#theme")
    assert lightness()
    page.reload()
    assert lightness()
    page.click("#theme")
    assert not lightness()


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1920])
def test_nothing_scrolls_sideways(open_page, site, width):
    site.call("POST", "api/generate", {"prompt": "a" * 300 + " " + "a very long prompt " * 60, "seed": 2**63, "steps": 1,
                                       "system_prompt": "x" * 400})
    page = open_page(width=width, height=800)
    assert has_no_sideways_scroll(page)
    for section in ("sampling", "source", "loras", "advanced"):
        page.click(f"#{section} > summary")
    generate(page, "an_unbroken_" * 40)
    assert has_no_sideways_scroll(page)
    page.locator("#gallery button").last.click()
    assert has_no_sideways_scroll(page)
    inside = "dialog => [...dialog.querySelectorAll('*')].every(one => one.getBoundingClientRect().right <= innerWidth + 1)"
    assert page.locator("#details").evaluate(inside)
    page.keyboard.press("Escape")
    page.click("#template-open")
    assert has_no_sideways_scroll(page)


def test_choices_have_an_arrow_with_room_around_it(page):
    for section in ("sampling", "advanced"):
        page.click(f"#{section} > summary")
    room = page.locator("select").evaluate_all("""selects => selects.filter((one) => one.checkVisibility()).map((one) => {
        const arrow = getComputedStyle(one.parentElement, '::after');
        return getComputedStyle(one).appearance === 'none' && arrow.content !== 'none' ? parseFloat(arrow.right) : 0;
    })""")
    assert len(room) == 3 and min(room) > 10


def test_everything_is_reached_by_tab(page):
    make = """() => [...document.querySelectorAll('button, input, select, textarea, summary, a[href]')]
        .filter((one) => one.checkVisibility() && !one.disabled && one.type !== 'hidden' && one.closest('dialog') === null)
        .filter((one) => one.type !== 'radio' || one.checked).map((one) => one.id || one.dataset.for || one.textContent)"""
    wanted = set(page.evaluate(make))
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(len(wanted) + 10):
        reached.add(page.evaluate(
            "() => { const one = document.activeElement; return one.id || one.dataset.for || one.textContent }"))
        page.keyboard.press("Tab")
    assert len(wanted) > 15 and wanted - reached == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(open_page, scheme, width):
    page = open_page(width=width, color_scheme=scheme, reduced_motion="reduce")
    axe = Axe()

    def check(what):
        found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
        assert found.violations_count == 0, f"{what}: {found.generate_report()}"

    check("empty")
    for section in ("sampling", "source", "loras", "advanced"):
        page.click(f"#{section} > summary")
    page.fill("#steps", "500")
    generate_wrong = page.locator("#generate")
    page.fill("#prompt", APPLE)
    generate_wrong.click()
    expect(page.locator("#problem-steps")).to_be_visible()
    check("all sections and a problem")
    page.fill("#steps", "")
    generate(page)
    page.mouse.move(0, 0)
    check("a result")
    page.click("#template-open")
    expect(page.locator("#picker-about pre")).to_contain_text("im_start")
    check("templates")
    page.keyboard.press("Escape")
    page.locator("#gallery button").first.click()
    check("details")


def test_motion_is_reduced_when_asked(open_page, site):
    page = open_page(reduced_motion="reduce")
    start_long(page, site)
    assert page.locator("#frame").evaluate("frame => getComputedStyle(frame).animationName") == "none"
    page.click("#cancel")
    expect(page.locator("#generate")).to_be_visible()


def test_the_server_forbids_what_the_page_does_not_need(page, site):
    answer = page.request.get(site.base)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert not re.search(r"\sstyle=|\son\w+=|<script>", answer.text())
