"""The trained network: text encoder and UNet as one module, optionally with LoRA."""

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
from finetune.model.fp16 import fp16_copy, to_fp16
from finetune.model.loading import LORA, load_unet
from finetune.params import Train

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention projections that get LoRA matrices


class Denoiser(torch.nn.Module):
    """Maps noisy latents [n, c, h, w], timesteps [n] and token ids [n, 77] to a prediction [n, c, h, w]."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, params: Train) -> None:
        """Modify both networks in place: make the parameters that `params` selects trainable, and freeze the rest."""
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
        # no attention mask: Stable Diffusion 1.x attends to the padding, in training as in sampling
        text = self.text_encoder(token_ids).last_hidden_state
        return self.unet(noisy_latents, timesteps, text).sample

    def trainable_parameters(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def load_trainable(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.trainable_parameters().items():
            parameter.copy_(tensors[name])

    def store_frozen_unet_as(self, dtype: torch.dtype) -> None:
        """Convert the frozen UNet parameters. Trainable ones stay in fp32, because fp16 weights lose small updates."""
        for parameter in self.unet.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    def clone_for_ema(self) -> "Denoiser":
        """Return a copy in eval mode that has its own trainable parameters and shares the frozen ones."""
        frozen = {id(parameter): parameter for parameter in self.parameters() if not parameter.requires_grad}
        return copy.deepcopy(self, frozen).eval()


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Freeze `unet` and add trainable LoRA matrices (Hu et al., 2021), which change no output at first."""
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        # alpha = rank leaves the update unscaled, so a learning rate means the same at any rank
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))


def save_lora(trained: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA matrices alone, as fp16, in the format that diffusers and other programs load."""
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    layers = {name: to_fp16(tensor, f"train: {folder.name}/{LORA}: {name}") for name, tensor in state.items()}
    StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name=LORA)


def merge_lora(trained: UNet2DConditionModel, base: UNet2DConditionModel, rank: int) -> UNet2DConditionModel:
    """Merge the LoRA matrices of `trained` into `base`, in place, and return it as a plain UNet.

    The frozen weights of `trained` are not used: they may be in half precision.
    """
    add_lora(base, rank, seed=0)
    set_peft_model_state_dict(base, get_peft_model_state_dict(trained))
    base.fuse_lora()
    base.unload_lora()
    return base


def save_weights(denoiser: Denoiser, base: Path, params: Train, folder: Path) -> None:
    """Write the trained networks as fp16 in diffusers layout, and LoRA matrices both separately and merged into a UNet.

    Raises InputError if a weight does not fit fp16.
    """
    unet = denoiser.unet
    if params.lora_rank is not None:
        save_lora(unet, folder)
        unet = merge_lora(unet, load_unet(base / "unet"), params.lora_rank)
    fp16_copy(unet, f"train: {folder.name}/unet").save_pretrained(folder / "unet")
    if params.text_encoder_lr is not None:
        fp16_copy(denoiser.text_encoder, f"train: {folder.name}/text_encoder").save_pretrained(folder / "text_encoder")
