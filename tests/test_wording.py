"""app.wording: chips and the style switch edit the prompt, and read themselves back from it."""

import pytest

from app.wording import AS_WRITTEN, keywords_of, style_of, with_keywords, with_style

STYLES = {"realistic": "a photograph of", "stylized": "an illustration of"}
KEYWORDS = ["close-up", "golden hour"]


@pytest.mark.parametrize(
    ("prompt", "style", "edited"),
    [
        ("two stars", "realistic", "a photograph of two stars"),
        ("a photograph of two stars", "stylized", "an illustration of two stars"),
        ("A photograph of two stars", "stylized", "an illustration of two stars"),
        ("a photograph of two stars", AS_WRITTEN, "two stars"),
        ("two stars", AS_WRITTEN, "two stars"),
        ("", "realistic", "a photograph of"),
        ("a photograph of", AS_WRITTEN, ""),
        ("a photograph offered", "realistic", "a photograph of a photograph offered"),
    ],
)
def test_a_style_is_how_the_prompt_begins(prompt: str, style: str, edited: str) -> None:
    assert with_style(prompt, style, STYLES) == edited
    assert style_of(edited, STYLES) == style


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
