"""Trainings that are stopped at a step, or whose looks score what a script says."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from finetune.training.trainer import Trainer
from stages import train as stage


@contextmanager
def signalled_at(step: int, signum: signal.Signals) -> Iterator[None]:
    """The process gets the signal in the middle of its n-th step."""
    accumulate = Trainer._accumulate

    def step_and_signal(self: Trainer, number: int) -> Tensor:
        if number == step:
            os.kill(os.getpid(), signum)
        return accumulate(self, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_accumulate", step_and_signal)
        yield


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """The trainer gets Ctrl-C in the middle of its n-th step, and raises KeyboardInterrupt."""
    with signalled_at(step, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        yield


def script_looks(monkeypatch: pytest.MonkeyPatch, *losses: float) -> list[dict[str, Tensor]]:
    """Looks score what the script says; the EMA weights at each are in the list that is returned."""
    seen: list[dict[str, Tensor]] = []

    def validate(trainer: Trainer, *_: Any) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in trainer.ema.unet.state_dict().items()})
        return {"loss": losses[len(seen) - 1], "caption_gain": 0.0}

    monkeypatch.setattr(stage, "validate", validate)
    return seen
