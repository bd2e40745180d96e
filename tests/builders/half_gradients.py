"""What fp16 does to gradients on a GPU, on a CPU."""

from typing import Any

import torch
from accelerate import Accelerator

from finetune.training.denoiser import Denoiser

OVERFLOWING = 2.0**26  # a loss scale under which the tiny model's gradients leave fp16's range, for a few halvings


class HalfGradients(Denoiser):
    """Its gradients pass through fp16, where 65504 is the largest number."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        for parameter in self.trainable_parameters().values():
            parameter.register_hook(lambda gradient: gradient.half().float())


def scaled_accelerator(scale: float) -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return accelerator
