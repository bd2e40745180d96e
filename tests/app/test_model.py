"""app.model: loading the base model for comparison, and words that the model does not know."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.model import MAX_NAMED, Model
from finetune.errors import InputError
from finetune.model.tokenizer import load_tokenizer


class Stub:
    """A stub of a pipeline that records how it is moved."""

    device, dtype = torch.device("cuda"), torch.float16
    safety_checker = feature_extractor = object()

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.moves: list[tuple[Any, ...]] = []
        self.modules: dict[str, object] = {}

    def to(self, *places: Any) -> "Stub":
        self.moves.append(places)
        if self.error:
            raise torch.OutOfMemoryError(self.error)
        return self

    def register_modules(self, **modules: object) -> None:
        self.modules = modules


@pytest.fixture
def model() -> Model:
    anything: Any = Stub()
    return Model(Path("export"), "digest", anything, anything, {}, Path("base"))


def test_the_base_is_cast_and_moved_in_one_call(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Casting after the move would need three times the GPU memory of one model."""
    base = Stub()
    monkeypatch.setattr("app.model.load_pipeline", lambda _: base)
    assert model.base is model.base is base
    assert base.moves == [(torch.device("cuda"), torch.float16)]
    assert base.modules == {
        "safety_checker": Stub.safety_checker,
        "feature_extractor": Stub.feature_extractor,
    }


def test_running_out_of_memory_is_reported_and_the_next_use_tries_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.model.load_pipeline", lambda _: Stub(error="CUDA out of memory."))
    with pytest.raises(InputError, match=r"^There is not enough free memory for both the base"):
        _ = model.base
    monkeypatch.setattr("app.model.load_pipeline", lambda _: Stub())
    assert model.base


def test_a_vocabulary_note_names_some_words_and_counts_the_others(model: Model, tiny_base: Path) -> None:
    model.pipeline.tokenizer = load_tokenizer(tiny_base / "tokenizer")
    assert model.vocabulary_note("a star") == ""
    assert model.vocabulary_note("a Star, a zebra") == "not in this model's vocabulary: zebra"
    words = [f"{letter}{letter}" for letter in "abcdefghijk"]
    named = ", ".join(words[:MAX_NAMED])
    assert model.vocabulary_note(" ".join(words)).endswith(f": {named} and 3 more")
