"""A base model that cannot be trained is told by its configuration."""

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


def test_one_whose_parts_fit_gives_their_configurations(base: Path) -> None:
    assert check_base(base)["unet"]["cross_attention_dim"] == 32


@pytest.mark.parametrize("change", [{"prediction_type": "v_prediction"}, {"prediction_type": "epsilon"}, {}])
def test_noise_and_v_can_be_predicted_and_noise_is_where_nothing_is_said(change: dict[str, Any], base: Path) -> None:
    (base / SCHEDULER).write_text(json.dumps(change))
    check_base(base)


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        (
            UNET,
            {"cross_attention_dim": 2048},
            "unet: its cross_attention_dim is 2048, the text_encoder's hidden_size 32",
        ),
        (UNET, {"in_channels": 9}, "unet: its in_channels is 9, the vae's latent_channels 4"),
        (SCHEDULER, {"prediction_type": "sample"}, "scheduler: prediction_type 'sample' is neither epsilon nor v_pred"),
    ],
    ids=["of SDXL", "for inpainting", "prediction"],
)
def test_what_would_fail_at_the_first_step_is_named(file: str, change: dict[str, Any], fault: str, base: Path) -> None:
    (base / file).write_text(json.dumps(json.loads((base / file).read_text()) | change))
    with pytest.raises(InputError, match=rf"{fault}.*; choose another model under fetch\.base in params\.yaml$"):
        check_base(base)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"latent_channels": 4}'])
def test_a_plan_for_a_configuration_that_lacks_something_is_one_line(content: str, base: Path) -> None:
    (base / VAE).write_text(content)
    with pytest.raises(
        InputError, match=r"vae/config\.json: .*; choose another model under fetch\.base in params\.yaml$"
    ):
        load_architecture(Base(location=str(base), revision=None, sha256=dict.fromkeys(WEIGHTS, "0" * 64)))
