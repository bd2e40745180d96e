"""The network that training sees: text encoder and UNet as one, of which some weights learn."""

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import CLIPTextModel

from finetune.model.determinism import derive_seed
from finetune.model.loading import LORA
from finetune.params import Train


class Denoiser(torch.nn.Module):
    """Noisy latents [n, 4, h, w], timesteps [n] and token ids [n, 77] to a prediction [n, 4, h, w]."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, params: Train) -> None:
        """Takes both as they are and makes the chosen weights learn."""
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet.train().requires_grad_(True)
        if params.lora_rank is not None:
            add_lora(unet, params.lora_rank, params.seed)
        if params.text_encoder_lr is not None:
            text_encoder.train().requires_grad_(True)
        if params.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if params.channels_last:
            unet.to(memory_format=torch.channels_last)

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        # no mask: Stable Diffusion 1.x attends to the padding, in training as in drawing
        text = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy_latents, timesteps, text).sample

    def trainable_parameters(self) -> dict[str, Tensor]:
        """The weights that learn, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def load_trainable(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.trainable_parameters().items():
            parameter.copy_(tensors[name])

    def store_frozen_unet_as(self, dtype: torch.dtype) -> None:
        """Halve the memory of a UNet beside LoRA. What learns stays in fp32: fp16 weights lose small updates."""
        for parameter in self.unet.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    def clone_for_ema(self) -> "Denoiser":
        """A copy to hold averages and to look at: it has its own learned weights and shares the frozen ones."""
        frozen = {id(parameter): parameter for parameter in self.parameters() if not parameter.requires_grad}
        return copy.deepcopy(self, frozen).eval()


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
