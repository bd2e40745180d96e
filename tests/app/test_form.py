"""app.ui.form: style and keyword presets edit the prompt, and are read back from it."""

import pytest

from app.ui.form import NO_STYLE, keywords_of, render_vocabulary_note, style_of, with_keywords, with_style

STYLES = {"realistic": "a photo of", "stylized": "an illustration of"}
KEYWORDS = ["close-up", "golden hour"]


@pytest.mark.parametrize(
    ("prompt", "style", "edited"),
    [
        ("two stars", "realistic", "a photo of two stars"),
        ("a photo of two stars", "stylized", "an illustration of two stars"),
        ("A photo of two stars", "stylized", "an illustration of two stars"),
        ("a photo of two stars", NO_STYLE, "two stars"),
        ("two stars", NO_STYLE, "two stars"),
        ("", "realistic", "a photo of"),
        ("a photo of", NO_STYLE, ""),
        ("a photo offered", "realistic", "a photo of a photo offered"),
    ],
)
def test_a_style_is_a_prefix_of_the_prompt(prompt: str, style: str, edited: str) -> None:
    assert with_style(prompt, style, STYLES) == edited
    assert style_of(edited, STYLES) == style


@pytest.mark.parametrize("prefix", ["A photo of", "PHOTO:", "a photo of"])
def test_styles_are_case_insensitive(prefix: str) -> None:
    styles = {"photo": prefix, "drawing": "A Drawing of"}
    for prompt in ("two stars", f"{prefix.upper()} two stars", "a drawing of two stars"):
        edited = with_style(prompt, "photo", styles)
        assert (edited, style_of(edited, styles)) == (f"{prefix} two stars", "photo")


@pytest.mark.parametrize("written", ["in Paris", "in paris", "IN PARIS"])
def test_keywords_are_case_insensitive(written: str) -> None:
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
def test_keywords_are_added_and_removed_at_commas(prompt: str, chosen: list[str], edited: str) -> None:
    assert with_keywords(prompt, chosen, KEYWORDS) == edited
    assert keywords_of(edited, KEYWORDS) == chosen


def test_a_vocabulary_note_is_escaped() -> None:
    html = render_vocabulary_note("not in this model's vocabulary: <zebra>")
    assert "Not in this model&#x27;s vocabulary: &lt;zebra&gt;. " in html
