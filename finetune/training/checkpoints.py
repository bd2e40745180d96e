"""Whole-or-nothing checkpoints: every tensor and a JSON state in one safetensors file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.artifacts import atomic_write
from finetune.disk import require_free_space
from finetune.errors import InputError
from finetune.scratch import Scratch, prune


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-serialisable `state` so that `path` is either the old file or the new one."""
    with atomic_write(path) as partial:
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


KIND = "resume"  # of scratch state


def checkpoint_bytes(trainable_parameters: int, optimizer: int) -> int:
    """Of what a training keeps here: two resume points (weights, averages, optimizer's state) and the best averages."""
    return 2 * (2 * trainable_parameters + optimizer) + trainable_parameters


class Checkpoints:
    """The checkpoints of one run, and its EMA weights with the lowest validation loss so far.

    key: fingerprint of everything that determines the run.
    """

    def __init__(self, key: str) -> None:
        self._scratch = Scratch(KIND, key)
        self.folder = self._scratch.folder

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from training the same run, and delete the checkpoints of completed runs.

        Raises InputError while another process trains this run.
        """
        prune(KIND, {self.folder.name})
        with self._scratch.lock(f"{self.folder}: another process is training this run"):
            self._scratch.mark_in_use()
            yield

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Raises OSError or SafetensorError on a full disk, and leaves the previous checkpoint as it was."""
        save_checkpoint(self._file("step", step), tensors, state | {"step": step, "key": self.folder.name})
        for old in self._files("step")[:-1]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Raises InputError for a damaged file, and for one that was moved here from another run."""
        files = self._files("step")
        if not files:
            return None
        tensors, state = load_checkpoint(files[-1])
        if state["key"] != self.folder.name:
            raise InputError(
                f"{files[-1]} is a checkpoint of another run ({state['key']}), with different parameters, inputs or "
                "versions; remove it and run again"
            )
        return tensors, state

    def save_best(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Named by step, because the run may be killed before it saves the checkpoint that refers to it."""
        save_checkpoint(self._file("best", step), tensors, {})

    def load_best(self, step: int) -> dict[str, Tensor]:
        return load_checkpoint(self._file("best", step))[0]

    def keep_best(self, step: int) -> None:
        """Delete the best weights of other steps. The checkpoint that refers to `step` must have been saved."""
        for other in self._files("best"):
            if other != self._file("best", step):
                other.unlink()

    def require_space(self, size: int) -> None:
        """Raise InputError if `size` bytes, less those of the files that are here already, do not fit on the disk."""
        present = sum(file.stat().st_size for file in (*self._files("step"), *self._files("best")))
        require_free_space(self.folder, size - present, "checkpoints and weights of this run")

    def mark_complete(self) -> None:
        """The run's outputs are written. Its last checkpoint stays until another run starts."""
        self._scratch.mark_complete()

    def _file(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}.safetensors"

    def _files(self, kind: str) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(f"{kind}-*.safetensors"))
