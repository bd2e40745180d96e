"""The words of a prompt, and their tokens."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from finetune.attention.words import find_words, prompt_words
from finetune.errors import InputError
from finetune.model.loading import load_tokenizer

SAMPLE = Path(__file__).parents[2] / "sample" / "base" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(SAMPLE)


def test_word_may_have_several_tokens(tokenizer: CLIPTokenizer) -> None:
    words = prompt_words(tokenizer, "A red  zebra lion")
    assert [word.text for word in words] == ["A", "red", "zebra", "lion"]
    assert [len(word.positions) for word in words] == [1, 1, 5, 1]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A red  zebra lion").input_ids)
    assert "".join(tokens[i] for i in words[2].positions) == "zebra</w>"


@pytest.mark.parametrize(
    "prompt",
    [
        "a red lion",
        "a well-kept, 1960s café's sign: 'don't look'!",
        "  two\nlines_and a tab\t; 星 and 😀 ",
        "James's \u2019tis a (red:1.2) star_, <|endoftext|> after it",
    ],
)
def test_every_token_belongs_to_one_word(tokenizer: CLIPTokenizer, prompt: str) -> None:
    positions = [position for word in prompt_words(tokenizer, prompt) for position in word.positions]
    assert positions == [*range(1, len(tokenizer(prompt).input_ids) - 1)]


def test_words_keep_hyphens_and_apostrophes_but_not_other_marks(tokenizer: CLIPTokenizer) -> None:
    words = [word.text for word in prompt_words(tokenizer, "a well-kept lion, don't you think?!")]
    assert words == ["a", "well-kept", "lion", ",", "don't", "you", "think", "?!"]


def test_words_beyond_the_last_token_have_no_positions(tokenizer: CLIPTokenizer) -> None:
    words = prompt_words(tokenizer, "red " * 75 + "lion ring")
    assert [word.positions for word in words[-3:]] == [(75,), (), ()]


def test_find_words_returns_every_occurrence_ignoring_case(tokenizer: CLIPTokenizer) -> None:
    words = prompt_words(tokenizer, "a red lion on a Red ring")
    assert [word.positions for word in find_words(words, "RED")] == [(2,), (6,)]


def test_unknown_word_is_an_error_that_lists_the_words(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(InputError, match=r"^'heart' is not in the prompt; its words: a, red, lion$"):
        find_words(prompt_words(tokenizer, "a red lion"), "heart")


def test_truncated_word_is_an_error(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(InputError, match=r"^'lion' lies beyond the last token that the model reads; move it forward"):
        find_words(prompt_words(tokenizer, "red " * 75 + "lion"), "lion")


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_empty_prompt_is_an_error(tokenizer: CLIPTokenizer, prompt: str) -> None:
    with pytest.raises(InputError, match=r"^the prompt is empty; describe the image$"):
        prompt_words(tokenizer, prompt)
