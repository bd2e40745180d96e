"""app.ui.form: chips and the style switch edit the prompt, and read themselves back from it."""

import pytest

from app.ui.form import AS_WRITTEN, keywords_of, style_of, with_keywords, with_style

STYLES = {"realistic": "a photo of", "stylized": "an illustration of"}
KEYWORDS = ["close-up", "golden hour"]


@pytest.mark.parametrize(
    ("prompt", "style", "edited"),
    [
        ("two stars", "realistic", "a photo of two stars"),
        ("a photo of two stars", "stylized", "an illustration of two stars"),
        ("A photo of two stars", "stylized", "an illustration of two stars"),
        ("a photo of two stars", AS_WRITTEN, "two stars"),
        ("two stars", AS_WRITTEN, "two stars"),
        ("", "realistic", "a photo of"),
        ("a photo of", AS_WRITTEN, ""),
        ("a photo offered", "realistic", "a photo of a photo offered"),
    ],
)
def test_a_style_is_how_the_prompt_begins(prompt: str, style: str, edited: str) -> None:
    assert with_style(prompt, style, STYLES) == edited
    assert style_of(edited, STYLES) == style


@pytest.mark.parametrize("start", ["A photo of", "PHOTO:", "a photo of"])
def test_a_style_may_begin_with_capitals(start: str) -> None:
    styles = {"photo": start, "drawing": "A Drawing of"}
    for prompt in ("two stars", f"{start} two stars", f"{start.upper()} two stars", "A drawing of two stars"):
        edited = with_style(prompt, "photo", styles)
        assert (edited, style_of(edited, styles)) == (f"{start} two stars", "photo")
        assert with_style(edited, AS_WRITTEN, styles) == "two stars"


@pytest.mark.parametrize("written", ["in Paris", "in paris", "IN PARIS"])
def test_a_keyword_with_capitals_comes_and_goes(written: str) -> None:
    keywords = ["in Paris", "close-up"]
    assert with_keywords("a dog", ["in Paris"], keywords) == "a dog, in Paris"
    assert keywords_of(f"a dog, {written}", keywords) == ["in Paris"]
    assert with_keywords(f"a dog, {written}", ["in Paris"], keywords) == f"a dog, {written}"
    assert with_keywords(f"a dog, {written}", ["close-up"], keywords) == "a dog, close-up"


@pytest.mark.parametrize(
    ("prompt", "chosen", "edited"),
    [
        ("a dog", ["close-up"], "a dog, close-up"),
        ("a dog, close-up", ["close-up", "golden hour"], "a dog, close-up, golden hour"),
        ("a dog, Close-up, in the sun", [], "a dog, in the sun"),
        ("", ["close-up"], "close-up"),
    ],
)
def test_keywords_come_and_go_at_the_commas(prompt: str, chosen: list[str], edited: str) -> None:
    assert with_keywords(prompt, chosen, KEYWORDS) == edited
    assert keywords_of(edited, KEYWORDS) == chosen
