"""Optimizers, schedules, and detection of skipped steps."""

import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from finetune.errors import InputError
from finetune.training.optim import ema_decay, learning_rate, make_optimizer, optimizer_bytes, optimizer_step


def group() -> list[dict[str, list[torch.nn.Parameter]]]:
    return [{"params": [torch.nn.Parameter(torch.ones(3))]}]


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    rates = [learning_rate(step, peak=2.0, warmup_steps=4, steps=12) for step in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(12, peak=2.0, warmup_steps=4, steps=12) == pytest.approx(0)


def test_optimizer_bytes_count_8bit_scales_and_small_fp32_tensors() -> None:
    assert optimizer_bytes(1 << 20, "adamw-fused") == 8 * (1 << 20) + 4
    assert optimizer_bytes(1 << 20, "adamw-8bit") == 2 * (1 << 20) + 2 * 4 * (1 << 12)
    assert optimizer_bytes(100, "adamw-8bit") == 2 * 4 * 100 + 4


def test_ema_decay_rises_to_its_limit() -> None:
    assert ema_decay(0, limit=0.999) == 0.1
    assert ema_decay(90, limit=0.999) == 0.91
    assert ema_decay(10**6, limit=0.999) == 0.999


@pytest.mark.parametrize("kind", ["adamw", "adamw-fused"])
def test_overflowed_step_is_reported_as_skipped(kind: str) -> None:
    groups = group()
    (weight,) = groups[0]["params"]
    optimizer, scaler = make_optimizer(kind, groups, weight_decay=0.01), torch.amp.GradScaler("cpu", init_scale=8.0)
    for factor, expected in ((1.0, True), (float("inf"), False), (1.0, True)):
        before = weight.detach().clone()
        scaler.scale((weight * factor).sum()).backward()
        scaler.unscale_(optimizer)
        assert optimizer_step(optimizer, scaler) is expected
        assert torch.equal(weight, before) is not expected
        optimizer.zero_grad()


def test_accelerate_misses_skipped_steps_of_a_fused_optimizer() -> None:
    """The reason for `optimizer_step` (accelerate#4242). If this fails, accelerate may have fixed it."""
    Accelerator(cpu=True)  # AcceleratedOptimizer requires its state
    groups = group()
    (weight,) = groups[0]["params"]
    scaler = torch.amp.GradScaler("cpu")
    optimizer = AcceleratedOptimizer(make_optimizer("adamw-fused", groups, weight_decay=0.0), scaler=scaler)
    scaler.scale((weight * float("inf")).sum()).backward()
    optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 1.0]
    assert not optimizer.step_was_skipped


def test_missing_bitsandbytes_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        InputError, match=r"adamw-8bit needs bitsandbytes; `pip install bitsandbytes`, or use adamw-fused$"
    ):
        make_optimizer("adamw-8bit", group(), weight_decay=0.01)
