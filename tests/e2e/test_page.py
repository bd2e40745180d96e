"""The page in a real browser: typed into, looked at, canceled, reloaded, and worked by the keyboard alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from app import png_metadata
from tests.builders.app_server import AppServer
from tests.builders.tiny_export import make_tiny_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 60_000  # milliseconds, for a busy machine

# it is there for a moment only, which a look now and then may miss
WATCH_FOR_A_PREVIEW = """() => {
  window.previewed = false;
  new MutationObserver(() => {
    previewed ||= document.querySelector('#stage .stage img[src^="data:image/jpeg"]') !== null;
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install chromium")


@pytest.fixture(scope="module")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    folder = tmp_path_factory.mktemp("models")
    export = make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")
    served = tmp_path_factory.mktemp("served")
    server = AppServer(served, export, "--per-minute", "0", "--queue", "1", base=tiny_base)
    server.wait(seconds=900)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(browser: Browser, server: AppServer, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Fails the test for any request to another site and any error of the page's own code."""
    width, height = SIZES[request.param]
    scheme = "dark" if request.param == "phone" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    strangers: list[str] = []
    errors: list[str] = []
    page.on(
        "request",
        lambda r: strangers.append(r.url) if not r.url.startswith((server.address, "data:", "blob:")) else None,
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    prompt(page).wait_for()
    yield page
    context.close()
    assert strangers == []
    assert errors == []


expect.set_options(timeout=PATIENCE)


def prompt(page: Page) -> Locator:
    return page.get_by_label("Prompt", exact=True)


def chip(page: Page, name: str) -> Locator:
    """What is seen of it: its box has no looks, and a click forced on that may miss while the page still moves."""
    return page.locator(".chips label").get_by_text(name, exact=True)


def fill(box: Locator, text: str) -> None:
    """Until it stays: Gradio gives boxes that have just come up their first value twice."""
    for _ in range(20):
        box.fill(text)
        box.evaluate("async () => { for (let i = 0; i < 20; i++) await new Promise(requestAnimationFrame) }")
        if box.input_value() == text:
            return
    pytest.fail(f"{text!r} does not stay")


def setting(page: Page, name: str, value: int) -> None:
    fill(page.get_by_label(f"number input for {name}"), str(value))


def draw(page: Page, text: str) -> None:
    fill(prompt(page), text)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#images img").first).to_be_visible()


def begin_what_takes_long(page: Page) -> None:
    page.get_by_role("button", name="More settings").click()
    for name, value in (("Steps", 100), ("Images", 8), ("Width", 1024), ("Height", 1024)):
        setting(page, name, value)
    fill(prompt(page), "a star")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage progress")).to_be_visible()


def test_a_prompt_becomes_a_picture_with_a_preview_before_it(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="More settings").click()
    for name, value in (("Steps", 100), ("Width", 256), ("Height", 256)):
        setting(page, name, value)
    page.evaluate(WATCH_FOR_A_PREVIEW)
    draw(page, "a star")
    assert page.evaluate("previewed")
    with page.expect_download() as download:
        page.locator("#images").get_by_label("Download").first.click()
    download.value.save_as(tmp_path / "out.png")
    request, _ = png_metadata.read(tmp_path / "out.png")
    assert (request.prompt, request.steps) == ("a star", 100)


def test_cancel_stops_a_drawing_and_leaves_the_page_ready(page: Page) -> None:
    begin_what_takes_long(page)
    page.get_by_role("button", name="Cancel").first.click()
    expect(page.get_by_text("Canceled.")).to_be_visible()
    for name, value in (("Steps", 2), ("Images", 1), ("Width", 64), ("Height", 64)):
        setting(page, name, value)
    draw(page, "a ring")


def test_who_waits_sees_the_place_and_who_comes_too_many_is_told_so(page: Page, server: AppServer) -> None:
    begin_what_takes_long(page)
    second, third = (page.context.new_page() for _ in range(2))
    for other in (second, third):
        other.goto(server.address)
        prompt(other).fill("a ring")
        other.get_by_role("button", name="Generate").click()
        if other is second:
            place = other.locator("#stage").get_by_text("queue: 1/1")
            expect(place).to_be_in_viewport()  # which a box without height would hide, and a visible one need not be
    expect(third.get_by_text("currently busy")).to_be_visible()
    expect(third.get_by_role("button", name="Generate")).to_be_enabled()
    page.get_by_role("button", name="Cancel").first.click()
    expect(second.locator("#images img").first).to_be_visible()


def test_a_request_that_cannot_be_drawn_is_named_and_leaves_the_page_ready(page: Page) -> None:
    fill(prompt(page), "  ")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("The prompt is empty: say what the image should show.")).to_be_visible()
    draw(page, "a star")


def test_the_history_survives_a_reload_and_draws_again(page: Page) -> None:
    draw(page, "two hearts ${1+1} <b>bold</b>")
    expect(page.locator("#history li")).to_have_count(1)
    page.reload()
    prompt(page).wait_for()
    card = page.locator("#history li").first
    expect(card.locator(".prompt")).to_have_text("two hearts ${1+1} <b>bold</b>")  # as text, never as code
    card.get_by_role("button", name="Draw again").click()
    expect(page.locator("#images img").first).to_be_visible()
    expect(prompt(page)).to_have_value("two hearts ${1+1} <b>bold</b>")
    expect(page.locator("#history li")).to_have_count(2)


def test_a_pngs_settings_come_back_without_an_upload(page: Page, tmp_path: Path) -> None:
    draw(page, "a star")
    with page.expect_download() as download:
        page.locator("#images").get_by_label("Download").first.click()
    download.value.save_as(tmp_path / "out.png")
    fill(prompt(page), "something else")
    posted: list[str] = []
    page.on("request", lambda r: posted.append(r.url) if "upload" in r.url else None)
    page.locator("input[type=file]").set_input_files(tmp_path / "out.png")
    expect(prompt(page)).to_have_value("a star")
    assert posted == []
    page.locator("input[type=file]").set_input_files(Path("metrics/grid.png"))
    expect(page.get_by_text("holds no settings")).to_be_visible()


def test_chips_and_the_style_edit_the_prompt_and_follow_it(page: Page) -> None:
    fill(prompt(page), "a star")
    chip(page, "on the floor").click()
    expect(prompt(page)).to_have_value("a star, on the floor")
    chip(page, "stylized").click()
    expect(prompt(page)).to_have_value("a drawing of a star, on the floor")
    fill(prompt(page), "a star")
    expect(page.get_by_label("on the floor", exact=True)).not_to_be_checked()
    expect(page.get_by_label("as written", exact=True)).to_be_checked()


def test_base_and_tuned_lie_under_a_slider(page: Page) -> None:
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare base and tuned").click()
    expect(page.locator("#compared img")).to_have_count(2)


def test_a_sweep_is_a_grid(page: Page) -> None:
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Sweep").click()
    fill(page.locator("#columns textarea, #columns input"), "1, 3")
    fill(page.locator("#rows textarea, #rows input"), "1, 2")
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.locator("#grid img")).to_have_count(4)


def test_heat_maps_are_stepped_through_and_a_word_is_replaced(page: Page) -> None:
    fill(prompt(page), "two star rings")
    page.get_by_role("tab", name="Attention").click()
    start = page.get_by_role("button", name="Show where each word acts")
    start.click()
    shown = page.locator("#words caption")
    expect(shown).to_have_text("the image")
    expect(start).to_be_enabled()  # the last answer comes twice, and each time goes back to the image
    expect(page.locator("#words :focus")).to_be_visible()  # which comes a moment after the image, and takes the keys
    for word in ("two", "star", "rings"):
        page.keyboard.press("ArrowRight")
        expect(shown).to_have_text(word)
    page.get_by_role("button", name="Change words, keep the layout").click()
    fill(page.get_by_label("Edited prompt"), "two star hearts")
    page.get_by_role("button", name="Draw the edit").click()
    expect(page.locator("#edited img")).to_have_count(2)


def test_a_tab_can_be_canceled_while_it_draws_and_only_then(page: Page) -> None:
    page.get_by_role("button", name="More settings").click()
    for name, value in (("Steps", 100), ("Width", 1024), ("Height", 1024)):
        setting(page, name, value)
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Attention").click()
    start = page.get_by_role("button", name="Show where each word acts")
    tab = page.get_by_role("tabpanel").filter(has=start)
    cancel = tab.get_by_role("button", name="Cancel")
    expect(cancel).to_be_disabled()
    start.click()
    expect(tab.locator("progress")).to_be_visible()
    expect(start).to_be_disabled()
    cancel.click()
    expect(tab.get_by_text("Canceled.")).to_be_visible()
    expect(cancel).to_be_disabled()
    for name, value in (("Steps", 2), ("Width", 64), ("Height", 64)):
        setting(page, name, value)
    start.click()
    expect(page.locator("#words caption")).to_have_text("the image")
    expect(cancel).to_be_disabled()


def test_the_keyboard_alone_draws_a_picture(page: Page) -> None:
    prompt(page).focus()
    page.keyboard.type("a star")
    page.keyboard.press("Enter")
    expect(page.locator("#images img").first).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
    assert {"New seed", "More settings", "Generate"} <= {name.strip().split("\n")[0] for name in reached}


def test_about_tells_what_the_model_is_and_leaves_the_form_at_work(page: Page) -> None:
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_role("heading", name="Evaluation")).to_be_visible()
    expect(page.get_by_text("no safety checker").first).to_be_visible()
    draw(page, "a star")  # which brings the images to the front
