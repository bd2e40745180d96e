"""The networks of a Stable Diffusion model on torch's meta device: traceable shapes without weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from finetune.data.transforms import RESOLUTION
from finetune.errors import InputError
from finetune.model.config import check_base
from finetune.params import Base, Train
from finetune.planning.tracing import checkpoint_with_autocast
from finetune.training.denoiser import Denoiser

PARTS = ("text_encoder", "unet", "vae")
KNOWN = {"hf://stable-diffusion-v1-5/stable-diffusion-v1-5": Path(__file__).parent / "architectures" / "sd15"}


@dataclass(frozen=True)
class Architecture:
    """The config.json of each network."""

    text_encoder: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]

    def make_denoiser(self, train: Train) -> Denoiser:
        """Build the denoiser as the trainer does on a GPU."""
        with torch.device("meta"):
            text_encoder = CLIPTextModel(CLIPTextConfig(**self.text_encoder)).requires_grad_(False).eval()
            denoiser = Denoiser(UNet2DConditionModel.from_config(self.unet), text_encoder, train)
        dtype = autocast_dtype(train)
        if dtype:
            denoiser.store_frozen_unet_as(dtype)
        if train.gradient_checkpointing:
            denoiser.unet.enable_gradient_checkpointing(checkpoint_with_autocast(dtype))
        return denoiser

    def make_vae(self) -> AutoencoderKL:
        with torch.device("meta"):
            return AutoencoderKL.from_config(self.vae).requires_grad_(False).eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = RESOLUTION // 2 ** (len(self.vae["block_out_channels"]) - 1)
        return self.vae["latent_channels"], side, side


def load_architecture(base: Base) -> Architecture:
    """Read the configurations from the base model's folder; for a model on the Hub, use the copy shipped here.

    Raises InputError if the model is neither a folder nor in KNOWN, or if it cannot be trained here.
    """
    if base.location in KNOWN:
        folder = KNOWN[base.location]
        return Architecture(*(json.loads((folder / f"{part}.json").read_text()) for part in PARTS))
    if not Path(base.location).is_dir():
        raise InputError(
            f"fetch.base.location {base.location}: the architecture is unknown until the model is downloaded; "
            f"set location to a local folder, or to {' or '.join(KNOWN)}"
        )
    parts = check_base(Path(base.location))
    return Architecture(*(parts[part] for part in PARTS))


def autocast_dtype(train: Train) -> torch.dtype | None:
    """Return the dtype of `train.mixed_precision` on a GPU; None means fp32 without autocast."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(train.mixed_precision)
