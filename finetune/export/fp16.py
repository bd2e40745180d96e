"""Convert weights to fp16 for serving."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.errors import InputError


def write_fp16(source: Path, target: Path) -> None:
    """Copy a safetensors file with floats as fp16 and integers unchanged, under the same tensor names.

    Raises InputError that names the first tensor with non-finite values or values beyond fp16's 65504.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file; run `dvc repro`")
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: _to_fp16(file.get_tensor(name), f"{source}: {name}") for name in sorted(file.keys())}
    except SafetensorError as error:
        raise InputError(f"{source}: not a valid safetensors file ({error}); fetch or train this model again") from None
    save_file(tensors, target, {"format": "pt"})  # transformers requires this entry


def _to_fp16(tensor: Tensor, label: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    if not tensor.isfinite().all():
        raise InputError(f"{label} has non-finite values; fetch or train this model again")
    if not half.isfinite().all():
        raise InputError(f"{label} reaches {tensor.abs().max():g}, beyond fp16's 65504; lower train.lr and train again")
    return half
