"""Fuzz prompts, requests, PNG metadata and the history with arbitrary input."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from transformers import CLIPTokenizer

from app.png_metadata import KEY, describe, parse, read
from app.request import GUIDANCE_SCALE, MAX_PROMPT, MAX_SEED, SCHEDULERS, STEPS, Request
from app.ui.form import NO_STYLE, keywords_of, style_of, with_keywords, with_style
from app.ui.history import read as read_history
from app.ui.history import render
from finetune.attention.words import find_words, prompt_words
from finetune.errors import InputError
from finetune.model.loading import load_tokenizer
from tests.app.test_request import GOOD
from tests.fuzz.answers import JSON, result_or_fault
from tests.fuzz.damage import damaged

TOKENIZER = Path(__file__).parents[2] / "sample" / "base" / "tokenizer"
TEXT = st.text() | st.text(alphabet="aA ,'-_\u2019\u0130\u00df\ufb01\u0301\u200d\x00\x1c\x85\u2028\ud800\U0001f600<|>")
STYLES = {"realistic": "a photo of", "stylized": "an illustration of"}
KEYWORDS = ["close-up", "golden hour"]
REQUESTS = st.builds(
    Request,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip),
    negative_prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    seed=st.integers(0, MAX_SEED),
    num_inference_steps=st.integers(*STEPS),
    guidance_scale=st.floats(*GUIDANCE_SCALE),
    scheduler=st.sampled_from(SCHEDULERS),
    width=st.integers(1, 16).map(lambda i: 64 * i),
    height=st.integers(1, 16).map(lambda i: 64 * i),
)


@cache
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(TOKENIZER)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON | TEXT | st.floats() | st.binary()))
@example({"prompt": "\ud800"})
@example({"negative_prompt": "\udcff"})
def test_any_value_in_a_request(changed: dict[str, Any]) -> None:
    request = result_or_fault(lambda: Request(**GOOD | changed))
    if isinstance(request, Request):
        tokenizer()([request.prompt, request.negative_prompt or ""])
        assert parse(describe(request, "")) == (request, "")


@settings(max_examples=100)
@given(
    TEXT | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(["model", "request"]), JSON).map(json.dumps) | JSON
)
@example('{"model": "", "request": {"prompt": "\\ud800"}}')
@example("[" * 9000)
@example('{"model": ' + "1" * 5000 + "}")
def test_any_text_as_png_metadata(text: Any) -> None:
    assert isinstance(result_or_fault(lambda: parse(text)), InputError)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.sampled_from(["tEXt", "iTXt", "zTXt"]), TEXT | REQUESTS.map(lambda r: describe(r, "")))
def test_a_damaged_png(seed: int, kind: str, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    text = text.encode("utf-8", "replace").decode()
    if kind == "iTXt":
        info.add_itxt(KEY, text)
    else:
        info.add_text(KEY, text, zip=kind == "zTXt")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        Image.new("RGB", (2, 2)).save(path, pnginfo=info)
        path.write_bytes(damaged(path.read_bytes(), random.Random(seed)))
        found = result_or_fault(lambda: read(path), str(path))
        assert isinstance(found, tuple | InputError)


@settings(max_examples=300)
@given(TEXT | st.lists(TEXT, min_size=1, max_size=3).map(" ".join), TEXT)
@example("\x1c", "")
@example("a\x1fb", "a")
@example("\ud800", "\ud800")
@example("\u0300 a", "a")
@example("x" * MAX_PROMPT, "x")
def test_any_prompt_splits_into_words_with_all_its_tokens(prompt: str, text: str) -> None:
    words = result_or_fault(lambda: prompt_words(tokenizer(), prompt))
    if isinstance(words, list):
        positions = [position for word in words for position in word.positions]
        ids = tokenizer()(prompt, truncation=True, max_length=77).input_ids
        assert positions == [*range(1, len(ids) - 1)]
        for each in (text, *(word.text for word in words)):
            found = result_or_fault(lambda each=each: find_words(words, each))  # type: ignore[misc]
            assert isinstance(found, InputError) or all(word.positions for word in found)


@settings(max_examples=150)
@given(
    TEXT
    | st.sampled_from([*STYLES.values()]).flatmap(lambda prefix: TEXT.map(lambda rest: f"{prefix.upper()} {rest}")),
    st.sampled_from([*STYLES, NO_STYLE]),
)
def test_any_style_of_any_prompt_is_read_back(prompt: str, style: str) -> None:
    styled = with_style(prompt, style, STYLES)
    if style in STYLES:
        assert style_of(styled, STYLES) == style
        assert with_style(styled, style, STYLES) == styled
    else:
        assert prompt.endswith(styled)


@settings(max_examples=150)
@given(
    st.lists(TEXT | st.sampled_from(["close-up", " GOLDEN hour "])).map(",".join),
    st.lists(st.sampled_from(KEYWORDS), unique=True),
)
def test_any_keywords_of_any_prompt_are_read_back(prompt: str, chosen: list[str]) -> None:
    edited = with_keywords(prompt, chosen, KEYWORDS)
    assert {*keywords_of(edited, KEYWORDS)} == {*chosen}
    assert with_keywords(edited, chosen, KEYWORDS) == edited


@settings(max_examples=100)
@given(
    JSON
    | st.lists(
        st.fixed_dictionaries(
            {
                "text": REQUESTS.map(lambda r: describe(r, "m")) | JSON,
                "image": st.just("data:image/jpeg;base64,") | JSON,
            }
        ),
        max_size=3,
    )
)
def test_any_history_in_the_browser(stored: Any) -> None:
    entries = read_history(stored)
    html = render(stored, "m")
    assert html.count("<li>") == sum(entry is not None for entry in entries)
