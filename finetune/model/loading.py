"""Naming the tensor that went wrong, instead of a loss that turned into nan."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel
from transformers.utils.logging import disable_progress_bar

from finetune.artifacts import fingerprint
from finetune.errors import InputError
from finetune.model.tokenizer import load_tokenizer


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds an infinity or a nan."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return None


disable_progress_bar()  # of transformers, for loading: a stage shows progress of its own

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
LORA = "pytorch_lora_weights.safetensors"  # diffusers' name, for pipeline.load_lora_weights(folder)


def load_unet(folder: Path) -> UNet2DConditionModel:
    """In fp32 whatever the file holds: fp16 master weights silently stop learning at small learning rates."""
    return _load(UNet2DConditionModel, folder, torch_dtype=torch.float32)


def load_vae(folder: Path) -> AutoencoderKL:
    """Frozen, fp32."""
    return _load(AutoencoderKL, folder, torch_dtype=torch.float32).requires_grad_(False).eval()


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """Frozen, fp32."""
    return _load(CLIPTextModel, folder, dtype=torch.float32).requires_grad_(False).eval()


def load_scheduler(folder: Path) -> DDIMScheduler:
    """DDIM (Song et al., 2021) over the noise schedule that the folder's sampler, of whatever kind, was made for."""
    return _load(DDIMScheduler, folder)


def load_pipeline(base: Path, tuned: Path | None = None) -> StableDiffusionPipeline:
    """The base model, or the base model with the parts that `tuned` holds in place of its own."""
    return StableDiffusionPipeline(
        vae=load_vae(base / "vae"),
        text_encoder=load_text_encoder(tuned_part(base, tuned, "text_encoder")),
        tokenizer=load_tokenizer(base / "tokenizer"),
        unet=load_unet(tuned_part(base, tuned, "unet")).eval(),
        scheduler=load_scheduler(base / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@lru_cache(maxsize=1)
def load_pipeline_once(base: Path, tuned: Path | None, digest: str, device: str) -> StableDiffusionPipeline:
    """The model of this `model_fingerprint` on a device: loaded once by a process that draws many shards. Ray ends its
    processes after each job on a GPU."""
    assert digest == model_fingerprint(base, tuned), f"{tuned or base} was changed meanwhile"
    return load_pipeline(base, tuned).to(device)


def tuned_part(base: Path, tuned: Path | None, part: str) -> Path:
    """Where a part of the model lies: training writes those alone that it changed, the UNet always."""
    return tuned / part if tuned and (part == "unet" or (tuned / part).is_dir()) else base / part


def model_fingerprint(base: Path, tuned: Path | None = None) -> str:
    """Identify the model that `load_pipeline` loads, by the content of its parts."""
    parts = {part: base / part for part in ("vae", "tokenizer", "scheduler")}
    parts |= {part: tuned_part(base, tuned, part) for part in ("text_encoder", "unet")}
    if missing := [folder for folder in parts.values() if not folder.is_dir()]:
        raise InputError(f"{missing[0]}: no such folder; run `dvc repro`")
    return fingerprint(**parts)


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run `dvc repro`")
    extra = {} if kind is DDIMScheduler else {"use_safetensors": True}
    try:
        part = kind.from_pretrained(folder, local_files_only=True, **extra, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: not a {kind.__name__} in safetensors: {error}") from None
    if isinstance(part, torch.nn.Module) and (name := first_nonfinite(part.state_dict())):
        raise InputError(f"{folder}: the weight {name} holds values that are not finite; fetch or train it again")
    return part
