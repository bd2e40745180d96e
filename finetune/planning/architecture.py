"""The networks of a Stable Diffusion model without their weights, on torch's meta device: shapes that can be traced."""

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
from finetune.planning.tracing import checkpoint_under
from finetune.training.denoiser import Denoiser

PARTS = ("text_encoder", "unet", "vae")
KNOWN = {"hf://stable-diffusion-v1-5/stable-diffusion-v1-5": Path(__file__).parent / "architectures" / "sd15"}


@dataclass(frozen=True)
class Architecture:
    """The configurations of a model's parts."""

    text_encoder: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]

    def denoiser(self, train: Train) -> Denoiser:
        """As the trainer makes it on a GPU."""
        with torch.device("meta"):
            text_encoder = CLIPTextModel(CLIPTextConfig(**self.text_encoder)).requires_grad_(False).eval()
            denoiser = Denoiser(UNet2DConditionModel.from_config(self.unet), text_encoder, train)
        if half := autocast_dtype(train):
            denoiser.store_frozen_unet_as(half)
        if train.gradient_checkpointing:
            denoiser.unet.enable_gradient_checkpointing(checkpoint_under(half))
        return denoiser

    def autoencoder(self) -> AutoencoderKL:
        with torch.device("meta"):
            return AutoencoderKL.from_config(self.vae).requires_grad_(False).eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = RESOLUTION // 2 ** (len(self.vae["block_out_channels"]) - 1)
        return self.vae["latent_channels"], side, side


def architecture_of(base: Base) -> Architecture:
    """Of a local folder its own, of a model on a hub the one known here.

    Raises InputError for one that is neither, and for one that cannot be trained here.
    """
    if base.location in KNOWN:
        folder = KNOWN[base.location]
        return Architecture(*(json.loads((folder / f"{part}.json").read_text()) for part in PARTS))
    if not Path(base.location).is_dir():
        raise InputError(
            f"fetch.base.location {base.location}: its architecture is known only once it is here; fetch it and plan "
            f"with the folder's path, or choose {' or '.join(KNOWN)}"
        )
    parts = check_base(Path(base.location))
    return Architecture(*(parts[part] for part in PARTS))


def autocast_dtype(train: Train) -> torch.dtype | None:
    """What a GPU computes in where it may; None for fp32 throughout."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(train.mixed_precision)
