"""app.model: the base model beside the exported one, when it is first compared with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.model import Model
from finetune.errors import InputError


class Part:
    """As much of a pipeline as is asked for here; it notes what it is moved to."""

    device, dtype = torch.device("cuda"), torch.float16
    safety_checker = feature_extractor = object()

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.moves: list[tuple[Any, ...]] = []
        self.modules: dict[str, object] = {}

    def to(self, *places: Any) -> "Part":
        self.moves.append(places)
        if self.fault:
            raise torch.OutOfMemoryError(self.fault)
        return self

    def register_modules(self, **modules: object) -> None:
        self.modules = modules


@pytest.fixture
def model() -> Model:
    anything: Any = Part()
    return Model(Path("export"), "digest", anything, anything, {}, Path("base"))


def test_the_base_is_halved_before_it_is_on_the_gpu(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved in fp32 and halved there, it would need three times the memory that one model takes."""
    base = Part()
    monkeypatch.setattr("app.model.load_pipeline", lambda _: base)
    assert model.base is model.base is base
    assert base.moves == [(torch.device("cuda"), torch.float16)]
    assert base.modules == {"safety_checker": Part.safety_checker, "feature_extractor": Part.feature_extractor}


def test_too_little_memory_for_the_base_is_one_line_and_the_next_comparison_tries_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.model.load_pipeline", lambda _: Part(fault="CUDA out of memory."))
    with pytest.raises(InputError, match=r"^There is not enough free memory for the base model"):
        _ = model.base
    monkeypatch.setattr("app.model.load_pipeline", lambda _: Part())
    assert model.base
