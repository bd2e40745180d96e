"""The report in a real browser: desktop and phone, light and dark mode."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from finetune.params import load_params
from report.page import render
from tests.e2e.test_page import CHROMIUM, SIZES, browser  # noqa: F401

ROOT = Path(__file__).parents[2]
MIN_CONTRAST = 4.5  # WCAG 2.1, for text
CONTRASTS = """
() => {
  const channels = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = color => channels(color).reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
  };
  return [...document.querySelectorAll("h1, h2, h3, p, b, td, th, small, summary, footer, svg text")].map(element => {
    const style = getComputedStyle(element);
    const colors = [element.tagName === "text" ? style.fill : style.color, behind(element)];
    const [low, high] = colors.map(light).sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.textContent.slice(0, 40)];
  });
}
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install chromium")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_screen_and_is_readable(size: str, scheme: str, browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "report.html").write_text(render(load_params(ROOT / "params.yaml"), ROOT), encoding="utf-8")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    tab = context.new_page()
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    red, green, blue = re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (int(red) + int(green) + int(blue) < 3 * 64) == (scheme == "dark")
    table = tab.locator("section table").first
    assert table.locator("td").nth(1).is_visible()
    assert [each for each in tab.evaluate(CONTRASTS) if each[0] < MIN_CONTRAST] == []
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    context.close()
