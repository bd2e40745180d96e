"""Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685) of the U-Net's attention, by peft."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from finetune.models import LORA
from finetune.seeding import derive_seed

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Freeze the network and add matrices of `rank` that learn in its place; they change nothing at first."""
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        # alpha = rank: the update is not scaled, so that a learning rate means the same at any rank
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))


def save_lora(trained: UNet2DConditionModel, folder: Path) -> None:
    """Write the matrices alone, in the form that diffusers and other programs load."""
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name=LORA)


def merged(trained: UNet2DConditionModel, base: UNet2DConditionModel, rank: int) -> UNet2DConditionModel:
    """`base`, which is changed, with the matrices of `trained` added to its own: a plain network.

    `trained` itself may hold its frozen weights in half precision.
    """
    add_lora(base, rank, seed=0)
    set_peft_model_state_dict(base, get_peft_model_state_dict(trained))
    base.fuse_lora()
    base.unload_lora()
    return base
