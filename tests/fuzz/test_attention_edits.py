"""Any pair of prompts and any weights give a valid edit or a one-line error."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from finetune.attention.prompt_to_prompt import WEIGHTS, Edit, refinement, replacement, reweighting
from finetune.errors import InputError
from finetune.model.loading import load_tokenizer
from tests.fuzz.answers import result_or_fault
from tests.fuzz.test_prompts import TEXT

TOKENIZER = Path(__file__).parents[2] / "sample" / "base" / "tokenizer"
WORDS = st.lists(
    st.sampled_from(["a", "red", "zebra", "lion", "LION", "don't", ",", "?!", "\u661f", "x" * 90]), max_size=80
)
PROMPTS = WORDS.map(" ".join) | TEXT
FACTORS = st.dictionaries(
    st.sampled_from(["lion", "a", "zebra", ","]) | TEXT, st.floats(*WEIGHTS) | st.floats(), max_size=3
)


@cache
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(TOKENIZER)


def is_valid(edit: Edit | InputError) -> bool:
    """Check shapes, ranges, and that no token's attention is given away more than once."""
    if isinstance(edit, InputError):
        return True
    shares = edit.source.sum(dim=1)
    return bool(
        edit.source.shape == (77, 77)
        and torch.isfinite(edit.source).all()
        and (edit.source >= 0).all()
        and (shares <= 1 + 1e-6).all()
        and edit.source[0, 0] == 1
        and torch.isfinite(edit.weights).all()
        and (edit.weights.abs() <= 10).all()
    )


def edit_or_error(build: Callable[..., Edit], *prompts: str, weights: dict[str, float]) -> Edit | InputError:
    answer: Edit | InputError = result_or_fault(lambda: build(tokenizer(), *prompts, weights))
    return answer


@settings(max_examples=150)
@given(PROMPTS, PROMPTS, FACTORS)
@example("a lion", "a \ud800", {})
@example("a lion", "a\x1flion", {})
@example("a " * 200, "a " * 200 + "lion", {"lion": 2.0})
@example("a" * 500, "b" * 500, {})
def test_any_two_prompts_give_a_valid_edit_or_an_error(original: str, edited: str, weights: dict[str, float]) -> None:
    for build in (replacement, refinement):
        assert is_valid(edit_or_error(build, original, edited, weights=weights))


@settings(max_examples=100)
@given(PROMPTS, FACTORS)
@example("a lion", {"lion": float("nan")})
@example("a lion", {"lion": float("inf")})
@example("a lion", {"": 1.0})
def test_any_weights_give_a_valid_edit_or_an_error(prompt: str, weights: dict[str, float]) -> None:
    edit = edit_or_error(reweighting, prompt, weights=weights)
    assert is_valid(edit)
    if isinstance(edit, Edit):
        assert torch.equal(edit.source, torch.eye(77))  # the same prompt keeps its attention
