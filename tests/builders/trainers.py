"""Trainers of the training in miniature."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.model.loading import load_pipeline
from finetune.training.batches import CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.trainer import Trainer
from tests.builders.half_gradients import HalfGradients, scaled_accelerator
from tests.builders.tiny_training import small_params

SCALE = 0.18215
MakeTrainer = Callable[..., Trainer]


def trainer_maker(inputs: dict[str, Any], base: Path) -> MakeTrainer:
    data = CaptionedLatents(inputs["tokens"], inputs["latents"])

    def make(
        scale: float | None = None,
        prediction_type: str = "epsilon",
        accelerator: Accelerator | None = None,
        **changes: Any,
    ) -> Trainer:
        """With a loss scale and gradients in fp16, as on a GPU, unless the scale is None."""
        params = small_params(**changes)
        if accelerator is None:
            accelerator = Accelerator(cpu=True) if scale is None else scaled_accelerator(scale)
        pipeline = load_pipeline(base)
        kind = Denoiser if scale is None else HalfGradients
        denoiser = kind(pipeline.unet, pipeline.text_encoder, params)
        scheduler = DDPMScheduler.from_pretrained(base / "scheduler", prediction_type=prediction_type)
        return Trainer(accelerator, denoiser, scheduler, data, params, SCALE)

    return make


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
