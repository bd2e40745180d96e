"""Whole-or-nothing checkpoints: every tensor and a JSON state in one safetensors file."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.errors import InputError
from finetune.outputs import whole_file


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-serialisable `state` so that `path` is either the old file or the new one."""
    with whole_file(path) as partial:
        # to the CPU first: a file has no strides, and contiguous copies of channels_last weights would fill a GPU
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, {"state": json.dumps(state)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the state of a file that `save_checkpoint` wrote.

    Raises InputError when it is torn or of another origin.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a whole checkpoint ({error}); remove it and run again") from None


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam-like state by parameter position, `0.exp_avg` and so on."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters):
        # not from state_dict(), in which bitsandbytes wraps its own; its one quantization map for all parameters
        # is copied, since safetensors takes no memory twice
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{name}"] = value.clone() if name.startswith("qmap") else torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out; hyper-parameters stay those of `optimizer`."""
    slots: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        count = value.ndim == 0 and not value.is_floating_point()  # of steps, in bitsandbytes a plain number
        slots.setdefault(int(index), {})[name] = int(value) if count else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, slot in optimizer.state.items():
        for name, value in slot.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # a file has no strides: without the parameter's, channels_last would end at the first resume
                slot[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
