"""Whole-or-nothing checkpoints: every tensor and a JSON state in one safetensors file."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.artifacts import atomic_write, sha256_file
from finetune.errors import InputError
from finetune.paths import repository_root
from finetune.process import exclusive_lock


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


FINISHED = "finished"
PACKAGES = ("accelerate", "bitsandbytes", "diffusers", "numpy", "peft", "torch", "transformers")  # that make the steps


def run_key(determinants: dict[str, Any], files: list[Path]) -> str:
    """16 hexadecimal digits that differ when the parameters, a file, our code or a library's version differ."""
    ours = ("finetune", "stages", "__main__")
    loaded = {name: getattr(sys.modules[name], "__file__", None) for name in list(sys.modules) if name.startswith(ours)}
    content = {
        "versions": {package: _version(package) for package in PACKAGES},
        "determinants": determinants,
        "code": {name: sha256_file(Path(file)) for name, file in sorted(loaded.items()) if file},
        "files": {str(file): sha256_file(file) for file in sorted(files)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):  # bitsandbytes is optional
        return version(package)
    return None


def checkpoint_bytes(trainable_parameters: int, optimizer: int) -> int:
    """Of what a training keeps here: two resume points (weights, averages, optimizer's state) and the best averages."""
    return 2 * (2 * trainable_parameters + optimizer) + trainable_parameters


class Checkpoints:
    """The resume points of one run, and the EMA weights that did best so far."""

    def __init__(self, key: str) -> None:
        self.folder = repository_root() / ".dvc/tmp/resume" / key

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Raises OSError or SafetensorError on a full disk; what was saved before is left as it was."""
        save_checkpoint(self._file("step", step), tensors, state | {"step": step, "key": self.folder.name})
        for old in self._files("step")[:-1]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Raises InputError for a file that is torn or was moved here from another run."""
        files = self._files("step")
        if not files:
            return None
        tensors, state = load_checkpoint(files[-1])
        if state["key"] != self.folder.name:
            raise InputError(
                f"{files[-1]}: a checkpoint of another run ({state['key']}), with other parameters, inputs or "
                "versions; remove it and run again"
            )
        return tensors, state

    def save_best(self, step: int, tensors: dict[str, Tensor]) -> None:
        """By step, for the run may yet be killed before the checkpoint that knows of it."""
        save_checkpoint(self._file("best", step), tensors, {})

    def load_best(self, step: int) -> dict[str, Tensor]:
        return load_checkpoint(self._file("best", step))[0]

    def keep_best(self, step: int) -> None:
        """Remove the others; the checkpoint that names `step` is written."""
        for other in self._files("best"):
            if other != self._file("best", step):
                other.unlink()

    def require_space(self, size: int) -> None:
        """Raises InputError where `size` bytes, less those that are here already, do not fit on the disk."""
        needed = size - sum(file.stat().st_size for file in (*self._files("step"), *self._files("best")))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise InputError(
                f"{self.folder}: {free / 2**30:.1f} GiB free, but checkpoints and weights of this run take "
                f"{needed / 2**30:.1f} GiB; free some"
            )

    def finish(self) -> None:
        """The run's outputs are written. Its last checkpoint stays until another run starts: DVC may be killed yet."""
        (self.folder / FINISHED).touch()

    def _file(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}.safetensors"

    def _files(self, kind: str) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(f"{kind}-*.safetensors"))


@contextmanager
def exclusive(key: str) -> Iterator[Checkpoints]:
    """The checkpoints of a run, for one process at a time; those of finished runs go, whoever else removes them now.

    Raises InputError while another process trains the same run.
    """
    checkpoints = Checkpoints(key)
    folder = checkpoints.folder
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.glob(f"*/{FINISHED}"):
        if other.parent != folder:
            shutil.rmtree(other.parent, ignore_errors=True)
    with exclusive_lock(folder.with_suffix(".lock"), f"{folder}: another process is training this very run"):
        (folder / FINISHED).unlink(missing_ok=True)  # it is in use again
        yield checkpoints
