"""Trainers on the tiny data, and the faults that tests inject into a training."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.model.loading import load_pipeline
from finetune.training.batches import CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.trainer import Trainer
from finetune.training.validation import Validator
from tests.builders.tiny_training import small_params

SCALE = 0.18215  # Stable Diffusion's latent scaling factor
OVERFLOWING = 2.0**26  # a loss scale at which the tiny model's gradients overflow fp16 for the first few steps
MakeTrainer = Callable[..., Trainer]


class Fp16Gradients(Denoiser):
    """Rounds every gradient to fp16, whose largest finite number is 65504.

    Autocast does this on a GPU. With it, overflow and loss scaling can be tested on a CPU.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        for parameter in self.trainable_parameters().values():
            parameter.register_hook(lambda gradient: gradient.half().float())


def fp16_accelerator(scale: float) -> Accelerator:
    """Return a CPU accelerator with a loss scaler, which accelerate itself creates only for fp16 on a GPU."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return accelerator


def trainer_maker(inputs: dict[str, Any], base: Path) -> MakeTrainer:
    data = CaptionedLatents(inputs["tokens"], inputs["latents"])

    def make(
        scale: float | None = None,
        prediction_type: str = "epsilon",
        accelerator: Accelerator | None = None,
        **changes: Any,
    ) -> Trainer:
        """Return a trainer with `changes` to the parameters. With a loss scale, its gradients are fp16."""
        params = small_params(**changes)
        if accelerator is None:
            accelerator = Accelerator(cpu=True) if scale is None else fp16_accelerator(scale)
        pipeline = load_pipeline(base)
        kind = Denoiser if scale is None else Fp16Gradients
        denoiser = kind(pipeline.unet, pipeline.text_encoder, params)
        scheduler = DDPMScheduler.from_pretrained(base / "scheduler", prediction_type=prediction_type)
        return Trainer(accelerator, denoiser, scheduler, data, params, SCALE)

    return make


@contextmanager
def signalled_at(step: int, signum: signal.Signals) -> Iterator[None]:
    """Send the signal to this process during the given step.

    It arrives between batch and gradients, so that the test shows that the step is still completed.
    """
    accumulate = Trainer._accumulate

    def signal_and_accumulate(self: Trainer, number: int) -> Tensor:
        if number == step:
            os.kill(os.getpid(), signum)
        return accumulate(self, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_accumulate", signal_and_accumulate)
        yield


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Send Ctrl-C during the given step, and expect the block to raise KeyboardInterrupt."""
    with signalled_at(step, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        yield


def fake_validation(monkeypatch: pytest.MonkeyPatch, *losses: float) -> list[dict[str, Tensor]]:
    """Make the n-th validation return `losses[n]`. Returns a list that collects the UNet's EMA weights of each.

    The real losses of the tiny model are arbitrary, so a test could not say which step should be the best.
    """
    weights: list[dict[str, Tensor]] = []

    def metrics(self: Validator) -> dict[str, float]:
        weights.append(copies(self.ema.unet.state_dict()))
        return {"loss": losses[len(weights) - 1], "caption_gain": 0.0}

    monkeypatch.setattr(Validator, "metrics", metrics)
    return weights


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
