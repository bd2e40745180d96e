"""Convert weights to fp16. Equal weights give equal files, which DVC stores once."""

import copy
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.errors import InputError

Network = TypeVar("Network", bound=torch.nn.Module)


def to_fp16(tensor: Tensor, label: str) -> Tensor:
    """Return a float tensor as fp16, and any other unchanged.

    Raises InputError that begins with `label` if a value is non-finite or beyond fp16's 65504.
    """
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    if not tensor.isfinite().all():
        raise InputError(f"{label} has non-finite values; fetch or train this model again")
    if not half.isfinite().all():
        largest = tensor.abs().max()
        raise InputError(f"{label} reaches {largest:g}, beyond fp16's 65504; lower train.lr and train again")
    return half


def fp16_copy(network: Network, label: str) -> Network:
    """Return a frozen copy with fp16 parameters. Raises InputError that names the first one that does not fit."""
    halves = {
        id(parameter): torch.nn.Parameter(to_fp16(parameter.detach(), f"{label}: {name}"), requires_grad=False)
        for name, parameter in network.named_parameters()
    }
    return copy.deepcopy(network, halves)


def write_fp16(source: Path, target: Path) -> None:
    """Copy a safetensors file with floats as fp16 and integers unchanged, under the same tensor names.

    Raises InputError that names the first tensor with non-finite values or values beyond fp16's 65504.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file; run `dvc repro`")
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: to_fp16(file.get_tensor(name), f"{source}: {name}") for name in sorted(file.keys())}
    except SafetensorError as error:
        raise InputError(f"{source}: not a valid safetensors file ({error}); fetch or train this model again") from None
    save_file(tensors, target, {"format": "pt"})  # as diffusers and transformers write it
