"""Optimizers and their learning rate."""

import math
from typing import Any

import torch

from finetune.errors import InputError

BLOCK = 256  # weights that share a scale in an optimizer state of 8 bits (bitsandbytes)
SMALL = 4096  # fewer weights than that keep a state of 32 bits there


def make_optimizer(kind: str, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2017): plain, in one fused kernel, or with a state of 8 bits (Dettmers et al., 2021).

    Raises InputError when the 8-bit one is not installed.
    """
    if kind != "adamw-8bit":
        return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=kind == "adamw-fused" or None)
    try:
        from bitsandbytes.optim import AdamW8bit  # optional: it has no use without a GPU
    except ImportError:
        raise InputError(
            "params.yaml: train.optimizer adamw-8bit needs bitsandbytes, which is not installed; "
            "`pip install bitsandbytes`, or choose adamw-fused"
        ) from None
    return AdamW8bit(groups, weight_decay=weight_decay)


def optimizer_bytes(weights: int, kind: str) -> int:
    """Of one tensor: two moments of every weight and, for AdamW in fp32, a count of steps."""
    if kind == "adamw-8bit" and weights >= SMALL:
        return 2 * (weights + 4 * -(-weights // BLOCK))
    return 2 * 4 * weights + 4


def learning_rate(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero; `step` is the optimizer step about to be made, from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(step: int, limit: float) -> float:
    """(1 + n) / (10 + n), at most `limit`: early averages do not cling to the start."""
    return min(limit, (1 + step) / (10 + step))


def optimizer_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Step, and tell whether the weights moved: with a loss scale, a gradient that overflowed leaves them alone.

    The scale falls then and only then. A fused optimizer's own `step` is called and skips inside its kernel, so
    whether it was called tells nothing (accelerate#4242).
    """
    if scaler is None:
        optimizer.step()
        return True
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= scale
