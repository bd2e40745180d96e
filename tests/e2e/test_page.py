"""The page in a real browser, at desktop size in light mode and at phone size in dark mode."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from app import png_metadata
from tests.builders.app_server import AppServer
from tests.builders.tiny_export import PROMPTS, make_tiny_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
TIMEOUT = 60_000  # milliseconds, for a busy machine

# The preview is visible for a moment only, so polling may miss it.
OBSERVE_PREVIEW = """() => {
  window.previewed = false;
  new MutationObserver(() => {
    previewed ||= document.querySelector('#generate-view img[src^="data:image/jpeg"]') !== null;
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install chromium")


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
    """Fails the test on any request to another site and any JavaScript error."""
    width, height = SIZES[request.param]
    scheme = "dark" if request.param == "phone" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    outside: list[str] = []
    errors: list[str] = []
    page.on(
        "request",
        lambda r: outside.append(r.url) if not r.url.startswith((server.address, "data:", "blob:")) else None,
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    prompt(page).wait_for()
    yield page
    context.close()
    assert outside == []
    assert errors == []


expect.set_options(timeout=TIMEOUT)


def prompt(page: Page) -> Locator:
    return page.get_by_label("Prompt", exact=True)


def generate_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Generate", exact=True)


def chip(page: Page, name: str) -> Locator:
    """The chip's text. Its checkbox is invisible, and a forced click on it may miss while the page still moves."""
    return page.locator(".chips label").get_by_text(name, exact=True)


def fill(box: Locator, text: str) -> None:
    """Retry until the text stays: Gradio sets the initial value of a new box twice."""
    for _ in range(20):
        box.fill(text)
        box.evaluate("async () => { for (let i = 0; i < 20; i++) await new Promise(requestAnimationFrame) }")
        if box.input_value() == text:
            return
    pytest.fail(f"{text!r} was overwritten")


def setting(page: Page, name: str, value: int) -> None:
    fill(page.get_by_label(f"number input for {name}"), str(value))


def generate(page: Page, text: str) -> None:
    fill(prompt(page), text)
    generate_button(page).click()
    expect(page.locator("#images img").first).to_be_visible()


def start_slow_run(page: Page) -> None:
    page.get_by_role("button", name="Advanced settings").click()
    for name, value in (("Steps", 100), ("Images", 8), ("Width", 1024), ("Height", 1024)):
        setting(page, name, value)
    fill(prompt(page), "a star")
    generate_button(page).click()
    expect(page.locator("#generate-view progress")).to_be_visible()


def test_generating_shows_a_preview_then_the_image(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Advanced settings").click()
    for name, value in (("Steps", 100), ("Width", 256), ("Height", 256)):
        setting(page, name, value)
    page.evaluate(OBSERVE_PREVIEW)
    generate(page, "a star")
    assert page.evaluate("previewed")
    with page.expect_download() as download:
        page.locator("#images").get_by_label("Download").first.click()
    download.value.save_as(tmp_path / "out.png")
    request, _ = png_metadata.read(tmp_path / "out.png")
    assert (request.prompt, request.num_inference_steps) == ("a star", 100)


def test_the_page_is_ready_again_after_cancel(page: Page) -> None:
    start_slow_run(page)
    page.get_by_role("button", name="Cancel").first.click()
    expect(page.get_by_text("Canceled.")).to_be_visible()
    for name, value in (("Steps", 2), ("Images", 1), ("Width", 64), ("Height", 64)):
        setting(page, name, value)
    generate(page, "a ring")


def test_a_waiting_user_sees_the_position_and_a_full_queue_is_reported(page: Page, server: AppServer) -> None:
    start_slow_run(page)
    second, third = (page.context.new_page() for _ in range(2))
    for other in (second, third):
        other.goto(server.address)
        prompt(other).fill("a ring")
        generate_button(other).click()
        if other is second:
            position = other.locator("#generate-view").get_by_text("queue: 1/1")
            expect(position).to_be_in_viewport()  # a box of height 0 counts as visible
    expect(third.get_by_text("currently busy")).to_be_visible()
    expect(generate_button(third)).to_be_enabled()
    page.get_by_role("button", name="Cancel").first.click()
    expect(second.locator("#images img").first).to_be_visible()


def test_the_page_is_ready_again_after_an_invalid_request(page: Page) -> None:
    fill(prompt(page), "  ")
    generate_button(page).click()
    expect(page.get_by_text("The prompt is empty; describe the image.")).to_be_visible()
    generate(page, "a star")


def test_the_history_survives_a_reload_and_can_regenerate(page: Page) -> None:
    generate(page, "two hearts ${1+1} <b>bold</b>")
    expect(page.locator("#history li")).to_have_count(1)
    page.reload()
    prompt(page).wait_for()
    card = page.locator("#history li").first
    expect(card.locator(".prompt")).to_have_text("two hearts ${1+1} <b>bold</b>")  # as text, never as code
    card.get_by_role("button", name="Generate again").click()
    expect(page.locator("#images img").first).to_be_visible()
    expect(prompt(page)).to_have_value("two hearts ${1+1} <b>bold</b>")
    expect(page.locator("#history li")).to_have_count(2)


def test_settings_are_read_from_a_png_without_an_upload(page: Page, tmp_path: Path) -> None:
    generate(page, "a star")
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
    expect(page.get_by_text("has no generation settings")).to_be_visible()


def test_presets_edit_the_prompt_and_follow_it(page: Page) -> None:
    fill(prompt(page), "a star")
    chip(page, "on a stage").click()
    expect(prompt(page)).to_have_value("a star, on a stage")
    chip(page, "stylized").click()
    expect(prompt(page)).to_have_value("a drawing of a star, on a stage")
    fill(prompt(page), "a star")
    expect(page.get_by_label("on a stage", exact=True)).not_to_be_checked()
    expect(page.get_by_label("no style", exact=True)).to_be_checked()


def test_compare_shows_base_and_fine_tuned_with_a_slider(page: Page) -> None:
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Compare").click()
    images = page.locator("#compared img")
    expect(images).to_have_count(2)
    before = images.first.get_attribute("src") or ""
    page.get_by_role("button", name="Compare base and fine-tuned").click()
    expect(images.first).not_to_have_attribute("src", before)
    expect(images).to_have_count(2)


def test_compare_shows_an_example_of_the_export_at_once_and_another_when_chosen(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    images = page.locator("#compared img")
    expect(images).to_have_count(2)
    before = images.last.get_attribute("src") or ""
    page.locator("#compared-examples").get_by_text(PROMPTS[1], exact=True).click()
    expect(prompt(page)).to_have_value(PROMPTS[1])
    expect(images.last).not_to_have_attribute("src", before)


def test_words_that_the_model_does_not_know_are_named_below_the_prompt(page: Page) -> None:
    note = page.locator("#vocabulary-note")
    fill(prompt(page), "a zebra, a star")
    expect(note).to_contain_text("Not in this model's vocabulary: zebra. See the examples")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    fill(prompt(page), "a star")
    expect(note).to_be_hidden()


def test_sweep_shows_a_grid(page: Page) -> None:
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Sweep").click()
    fill(page.locator("#columns textarea, #columns input"), "1, 3")
    fill(page.locator("#rows textarea, #rows input"), "1, 2")
    page.get_by_role("button", name="Generate grid").click()
    expect(page.locator("#grid img")).to_have_count(4)


def test_attention_steps_through_heat_maps_and_replaces_a_word(page: Page) -> None:
    fill(prompt(page), "two star rings")
    page.get_by_role("tab", name="Attention").click()
    start = page.get_by_role("button", name="Show attention maps")
    start.click()
    shown = page.locator("#words caption")
    expect(shown).to_have_text("the image")
    expect(start).to_be_enabled()  # Gradio sends the last update twice, and each one selects the first image
    expect(page.locator("#words :focus")).to_be_visible()  # the arrow keys need the focus, which follows the image
    for word in ("two", "star", "rings"):
        page.keyboard.press("ArrowRight")
        expect(shown).to_have_text(word)
    page.get_by_role("button", name="Edit the prompt, keep the layout").click()
    fill(page.get_by_label("Edited prompt"), "two star hearts")
    page.get_by_role("button", name="Generate edit").click()
    expect(page.locator("#edited img")).to_have_count(2)


def test_cancel_is_enabled_only_while_the_tab_is_running(page: Page) -> None:
    page.get_by_role("button", name="Advanced settings").click()
    for name, value in (("Steps", 100), ("Width", 1024), ("Height", 1024)):
        setting(page, name, value)
    fill(prompt(page), "a star")
    page.get_by_role("tab", name="Attention").click()
    start = page.get_by_role("button", name="Show attention maps")
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


def test_the_page_works_with_the_keyboard_alone(page: Page) -> None:
    prompt(page).focus()
    page.keyboard.type("a star")
    page.keyboard.press("Enter")
    expect(page.locator("#images img").first).to_be_visible()
    expect(generate_button(page)).to_be_enabled()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
    assert {"Random seed", "Advanced settings", "Generate"} <= {name.strip().split("\n")[0] for name in reached}


def test_about_describes_the_model_and_the_form_still_works(page: Page) -> None:
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_role("heading", name="Evaluation")).to_be_visible()
    expect(page.get_by_text("no safety checker").first).to_be_visible()
    generate(page, "a star")  # switches back to the first tab
