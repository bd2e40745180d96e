"""Loading the parts of a model, and refusing invalid weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.errors import InputError
from finetune.model.loading import load_pipeline, load_text_encoder, load_unet, load_vae

FILE = "diffusion_pytorch_model.safetensors"


def edited(source: Path, target: Path, edit: Callable[[str, Tensor], Tensor]) -> Path:
    shutil.copytree(source, target)
    weights = {name: edit(name, tensor) for name, tensor in load_file(target / FILE).items()}
    save_file(weights, target / FILE, {"format": "pt"})
    return target


def test_unet_is_fp32_even_from_an_fp16_file(tiny_base: Path, tmp_path: Path) -> None:
    """At a learning rate of 1e-5 updates are below half a unit in the last place of fp16 and would round away."""
    unet = load_unet(edited(tiny_base / "unet", tmp_path / "unet", lambda _, tensor: tensor.half()))
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float32}


def test_vae_and_text_encoder_are_frozen_and_in_eval_mode(tiny_base: Path) -> None:
    for part in (load_vae(tiny_base / "vae"), load_text_encoder(tiny_base / "text_encoder")):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_nonfinite_weight_is_named(tiny_base: Path, tmp_path: Path) -> None:
    def poison(name: str, tensor: Tensor) -> Tensor:
        return tensor / 0 if name == "conv_in.bias" else tensor

    folder = edited(tiny_base / "unet", tmp_path / "unet", poison)
    with pytest.raises(InputError, match=rf"^{folder}: weight conv_in\.bias has non-finite values; "):
        load_unet(folder)


def test_tuned_model_without_a_unet_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    with pytest.raises(InputError, match="tuned/unet: no such folder"):
        load_pipeline(tiny_base, tmp_path / "tuned")
