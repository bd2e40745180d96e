"""Base models that cannot be trained are refused by their configuration."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import InputError
from finetune.model.config import check_base
from finetune.params import WEIGHTS, Base
from finetune.planning.architecture import load_architecture

UNET, VAE, SCHEDULER = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_base, tmp_path / "base")
    return tmp_path / "base"


def test_valid_base_returns_its_configurations(base: Path) -> None:
    assert check_base(base)["unet"]["cross_attention_dim"] == 32


@pytest.mark.parametrize("change", [{"prediction_type": "v_prediction"}, {"prediction_type": "epsilon"}, {}])
def test_epsilon_and_v_prediction_are_supported_and_epsilon_is_the_default(change: dict[str, Any], base: Path) -> None:
    (base / SCHEDULER).write_text(json.dumps(change))
    assert check_base(base)["scheduler"] == change


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (
            UNET,
            {"cross_attention_dim": 2048},
            "unet: cross_attention_dim is 2048, but hidden_size of text_encoder is 32",
        ),
        (UNET, {"in_channels": 9}, "unet: in_channels is 9, but latent_channels of vae is 4"),
        (
            SCHEDULER,
            {"prediction_type": "sample"},
            "scheduler: prediction_type must be epsilon or v_prediction, not 'sample'",
        ),
    ],
    ids=["SDXL", "inpainting", "prediction"],
)
def test_unsupported_base_is_refused(file: str, change: dict[str, Any], problem: str, base: Path) -> None:
    (base / file).write_text(json.dumps(json.loads((base / file).read_text()) | change))
    with pytest.raises(InputError, match=rf"{problem}.*; choose a different model under fetch\.base in params\.yaml$"):
        check_base(base)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"latent_channels": 4}'])
def test_incomplete_configuration_is_a_one_line_error(content: str, base: Path) -> None:
    (base / VAE).write_text(content)
    with pytest.raises(
        InputError, match=r"vae/config\.json: .*; choose a different model under fetch\.base in params\.yaml$"
    ):
        load_architecture(Base(location=str(base), revision=None, sha256=dict.fromkeys(WEIGHTS, "0" * 64)))
