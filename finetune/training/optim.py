"""Optimizers, the learning-rate and EMA schedules, and the optimizer step under fp16 loss scaling."""

import math
from typing import Any

import torch

from finetune.errors import InputError

BLOCK = 256  # weights that share one quantization scale in bitsandbytes
MIN_8BIT_SIZE = 4096  # bitsandbytes keeps the state of smaller tensors in 32 bits


def make_optimizer(kind: str, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """Create AdamW (Loshchilov & Hutter, 2017): plain, fused, or with 8-bit state (Dettmers et al., 2021).

    kind: `adamw`, `adamw-fused` or `adamw-8bit`. Raises InputError if bitsandbytes is needed but not installed.
    """
    if kind != "adamw-8bit":
        return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=kind == "adamw-fused" or None)
    try:
        from bitsandbytes.optim import AdamW8bit  # optional: only useful on a GPU
    except ImportError:
        raise InputError(
            "params.yaml: train.optimizer adamw-8bit needs bitsandbytes; `pip install bitsandbytes`, or use adamw-fused"
        ) from None
    return AdamW8bit(groups, weight_decay=weight_decay)


def optimizer_bytes(weights: int, kind: str) -> int:
    """Return the bytes of AdamW's state for one tensor: two moments per weight and, in fp32, a step counter."""
    if kind == "adamw-8bit" and weights >= MIN_8BIT_SIZE:
        return 2 * (weights + 4 * -(-weights // BLOCK))
    return 2 * 4 * weights + 4


def learning_rate(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Return the rate of optimizer step `step`, counted from 0: linear warm-up, then a half cosine down to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(step: int, limit: float) -> float:
    """Return min(limit, (1 + n) / (10 + n)), so that the first averages forget the initial weights quickly."""
    return min(limit, (1 + step) / (10 + step))


def optimizer_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Step the optimizer. Returns False if fp16 gradients overflowed and the weights were left unchanged.

    An overflow is recognized by the falling loss scale. Whether `optimizer.step` was called is no evidence, because a
    fused optimizer is always called and skips the update inside its kernel (accelerate#4242).
    """
    if scaler is None:
        optimizer.step()
        return True
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= scale
