"""Load the parts of a Stable Diffusion model in diffusers layout, and check their weights."""

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

disable_progress_bar()  # of transformers; stages have progress bars of their own

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
LORA = "pytorch_lora_weights.safetensors"  # the name that diffusers' load_lora_weights expects


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that contains inf or nan."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return None


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Load in fp32, even from an fp16 file: at small learning rates fp16 master weights round every update away."""
    return _load(UNet2DConditionModel, folder, torch_dtype=torch.float32)


def load_vae(folder: Path) -> AutoencoderKL:
    """Load frozen, in fp32."""
    return _load(AutoencoderKL, folder, torch_dtype=torch.float32).requires_grad_(False).eval()


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """Load frozen, in fp32."""
    return _load(CLIPTextModel, folder, dtype=torch.float32).requires_grad_(False).eval()


def load_scheduler(folder: Path) -> DDIMScheduler:
    """Load DDIM (Song et al., 2021) with the noise schedule of the folder's scheduler, which may be of another kind."""
    return _load(DDIMScheduler, folder)


def load_pipeline(base: Path, tuned: Path | None = None) -> StableDiffusionPipeline:
    """Load the base model, with the parts in `tuned` in place of its own."""
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
def load_pipeline_cached(base: Path, tuned: Path | None, digest: str, device: str) -> StableDiffusionPipeline:
    """Load a pipeline once per process. digest: its `model_fingerprint`, so that changed weights are an error."""
    assert digest == model_fingerprint(base, tuned), f"{tuned or base} changed during the run"
    return load_pipeline(base, tuned).to(device)


def tuned_part(base: Path, tuned: Path | None, part: str) -> Path:
    """Return the folder of a part. `tuned` always has a UNet, and other parts only if they were trained."""
    return tuned / part if tuned and (part == "unet" or (tuned / part).is_dir()) else base / part


def model_fingerprint(base: Path, tuned: Path | None = None) -> str:
    """Return a hash of all parts that `load_pipeline` loads."""
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
        raise InputError(f"{folder}: weight {name} has non-finite values; fetch or train it again")
    return part
