"""Shared by the training scripts of VAE and UNet: the update, EMA weights, the loss curve, checkpoints."""

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.training.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    save_checkpoint,
    unprefixed,
)


class Progress:
    """Where a training is: after `step` updates of `model`, or where `checkpoint` says that it stopped."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema_decay: float, checkpoint: Path) -> None:
        self.model, self.optimizer, self.ema_decay, self.checkpoint = model, optimizer, ema_decay, checkpoint
        self.ema = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.step = 0
        self.curve: list[dict[str, float]] = []
        seconds = 0.0
        if checkpoint.exists():
            tensors, state = load_checkpoint(checkpoint)
            model.load_state_dict(unprefixed("model", tensors))
            self.ema = {name: tensor.to(self.ema[name].device) for name, tensor in unprefixed("ema", tensors).items()}
            restore_optimizer(optimizer, unprefixed("optimizer", tensors))
            self.step, seconds, self.curve = state["step"], state["seconds"], state["curve"]
        self._started = time.monotonic() - seconds

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Take one optimizer step and update the EMA weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.model.state_dict().items():
            self.ema[name].lerp_(tensor, 1 - decay)
        self.step += 1

    def note(self, **values: float) -> None:
        """A point of the curve, with the seconds of training so far."""
        row = {"step": self.step, "seconds": round(self.seconds)}
        self.curve.append(row | {name: round(value, 4) for name, value in values.items()})
        print(json.dumps(self.curve[-1]), flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def save(self) -> None:
        tensors: dict[str, Tensor] = prefixed("model", self.model.state_dict()) | prefixed("ema", self.ema)
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        save_checkpoint(self.checkpoint, tensors, {"step": self.step, "seconds": self.seconds, "curve": self.curve})
