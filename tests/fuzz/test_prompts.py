"""Prompts and what images carry, from anyone's hand."""

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

from app.png_metadata import KEY, describe, parse, read, save
from app.request import GUIDANCE, MAX_PROMPT, MAX_SEED, SCHEDULERS, STEPS, Request
from app.ui.form import AS_WRITTEN, keywords_of, style_of, with_keywords, with_style
from app.ui.history import html
from app.ui.history import read as read_history
from finetune.attention.words import find_words, prompt_words
from finetune.errors import InputError
from finetune.model.loading import load_tokenizer
from sample.attention_measures import BASE
from tests.app.test_request import GOOD
from tests.fuzz.answers import JSON, result_or_fault
from tests.fuzz.damage import damaged

TEXT = st.text() | st.text(alphabet="aA ,'-_\u2019\u0130\u00df\ufb01\u0301\u200d\x00\x1c\x85\u2028\ud800\U0001f600<|>")
STYLES = {"realistic": "a photo of", "stylized": "an illustration of"}
KEYWORDS = ["close-up", "golden hour"]
REQUESTS = st.builds(
    Request,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip),
    negative_prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    seed=st.integers(0, MAX_SEED),
    steps=st.integers(*STEPS),
    guidance=st.floats(*GUIDANCE),
    scheduler=st.sampled_from(SCHEDULERS),
    width=st.integers(1, 16).map(lambda i: 64 * i),
    height=st.integers(1, 16).map(lambda i: 64 * i),
)


@cache
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(BASE / "tokenizer")


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON | TEXT | st.floats() | st.binary()))
@example({"prompt": "\ud800"})
@example({"negative_prompt": "\udcff"})
def test_any_value_in_a_request(changed: dict[str, Any]) -> None:
    made = result_or_fault(lambda: Request(**GOOD | changed))
    if isinstance(made, Request):
        tokenizer()([made.prompt, made.negative_prompt or ""])
        assert parse(describe(made, "")) == (made, "")


@settings(max_examples=60)
@given(JSON)
def test_any_json_as_a_request(content: Any) -> None:
    assert isinstance(result_or_fault(lambda: Request.from_json(content)), InputError)


@settings(max_examples=60)
@given(REQUESTS)
def test_a_picture_gives_its_request_back_whatever_was_asked(request: Request) -> None:
    image = Image.new("RGB", (2, 2))
    image.info[KEY] = describe(request, "model")
    with tempfile.TemporaryDirectory() as folder:
        save(image, Path(folder) / "a.png")
        assert read(Path(folder) / "a.png") == (request, "model")


@settings(max_examples=100)
@given(
    TEXT | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(["model", "request"]), JSON).map(json.dumps) | JSON
)
@example('{"model": "", "request": {"prompt": "\\ud800"}}')
@example("[" * 9000)
@example('{"model": ' + "1" * 5000 + "}")
def test_any_text_as_what_a_picture_carries(text: Any) -> None:
    assert isinstance(result_or_fault(lambda: parse(text)), InputError)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.sampled_from(["tEXt", "iTXt", "zTXt"]), TEXT | REQUESTS.map(lambda r: describe(r, "")))
def test_a_damaged_picture(seed: int, kind: str, text: str) -> None:
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
@given(TEXT)
@example("\x1c")
@example("a\x1fb")
@example("\ud800")
@example("\u0300 a")
@example("x" * MAX_PROMPT)
def test_any_prompt_s_words_and_tokens(prompt: str) -> None:
    words = result_or_fault(lambda: prompt_words(tokenizer(), prompt))
    if isinstance(words, list):
        positions = [position for word in words for position in word.positions]
        ids = tokenizer()(prompt, truncation=True, max_length=77).input_ids
        assert positions == [*range(1, len(ids) - 1)]
        for word in words:
            result_or_fault(lambda text=word.text: find_words(words, text))  # type: ignore[misc]


@settings(max_examples=100)
@given(st.lists(TEXT, min_size=1, max_size=3).map(" ".join), TEXT)
def test_any_word_in_a_prompt(prompt: str, text: str) -> None:
    words = result_or_fault(lambda: prompt_words(tokenizer(), prompt))
    if isinstance(words, list):
        found = result_or_fault(lambda: find_words(words, text))
        assert isinstance(found, InputError) or all(word.positions for word in found)


@settings(max_examples=150)
@given(
    TEXT | st.sampled_from([*STYLES.values()]).flatmap(lambda start: TEXT.map(lambda rest: f"{start.upper()} {rest}")),
    st.sampled_from([*STYLES, AS_WRITTEN]),
)
def test_any_prompt_takes_any_style_and_gives_it_back(prompt: str, style: str) -> None:
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
def test_any_prompt_takes_any_keywords_and_gives_them_back(prompt: str, chosen: list[str]) -> None:
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
def test_any_history(stored: Any) -> None:
    """Of a browser, where anyone may have written."""
    entries = read_history(stored)
    shown = html(stored, "m")
    assert shown.count("<li>") == sum(entry is not None for entry in entries)
