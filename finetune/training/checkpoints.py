"""Checkpoints for exact resumption: one safetensors file holds every tensor and a JSON state."""

import json
import logging
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
from finetune.params import Train
from finetune.scratch import Scratch, prune
from finetune.training.denoiser import Denoiser
from finetune.training.optim import optimizer_bytes
from finetune.training.trainer import History, Trainer

KIND = "resume"  # of scratch state

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-serializable `state` atomically: a crash leaves the old file or the new one."""
    with atomic_write(path) as partial:
        # on the CPU, because contiguous copies of channels_last weights could fill the GPU
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, {"state": json.dumps(state)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the state that `save_checkpoint` wrote.

    Raises InputError if the file is truncated or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a valid checkpoint ({error}); delete it and run again") from None


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an Adam-like optimizer, keyed by parameter position: `0.exp_avg` and so on."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters):
        # Not from state_dict(), where bitsandbytes wraps its state. All its parameters share one quantization map,
        # which is cloned because safetensors rejects tensors that share memory.
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{name}"] = value.clone() if name.startswith("qmap") else torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned. Hyperparameters stay those of `optimizer`."""
    slots: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        is_step = value.ndim == 0 and not value.is_floating_point()  # an int in bitsandbytes, a float tensor in torch
        slots.setdefault(int(index), {})[name] = int(value) if is_step else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, slot in optimizer.state.items():
        for name, value in slot.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # safetensors stores no strides, so copy into the parameter's layout to keep channels_last
                slot[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def checkpoint_bytes(trainable_parameters: int, optimizer: int) -> int:
    """Return the disk space for two checkpoints (weights, EMA, optimizer) and the best EMA weights. All in bytes."""
    return 2 * (2 * trainable_parameters + optimizer) + trainable_parameters


def training_bytes(denoiser: Denoiser, params: Train) -> int:
    """Return the disk space in bytes for the checkpoints of a run and for its last and best weights in fp16."""
    trainable_parameters = denoiser.trainable_parameters().values()
    optimizer = sum(optimizer_bytes(weight.numel(), params.optimizer) for weight in trainable_parameters)
    written = [denoiser.unet] if params.text_encoder_lr is None else [denoiser.unet, denoiser.text_encoder]
    weights = sum(2 * weight.numel() for part in written for weight in part.parameters())
    return checkpoint_bytes(sum(weight.nbytes for weight in trainable_parameters), optimizer) + 2 * weights


class Checkpoints:
    """The checkpoints of one run, and its EMA weights with the lowest validation loss so far.

    key: fingerprint of everything that determines the run.
    """

    def __init__(self, key: str) -> None:
        self._scratch = Scratch(KIND, key)
        self.folder = self._scratch.folder
        self.samples = self.folder / "samples"  # sample grids, which become an output at the end of the run

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
        """Save a checkpoint and delete older ones.

        Raises OSError or SafetensorError if the disk is full. The previous checkpoint is then unchanged.
        """
        save_checkpoint(self._file("step", step), tensors, state | {"step": step, "key": self.folder.name})
        for old in self._files("step")[:-1]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Raises InputError if the file is damaged or was moved here from a different run."""
        files = self._files("step")
        if not files:
            return None
        tensors, state = load_checkpoint(files[-1])
        if state["key"] != self.folder.name:
            raise InputError(
                f"{files[-1]} belongs to a different run ({state['key']}), with other parameters, inputs or versions; "
                "delete it and run again"
            )
        return tensors, state

    def save_best(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Save the weights under the step's name: the run may be killed before a checkpoint refers to them."""
        save_checkpoint(self._file("best", step), tensors, {})

    def load_best(self, step: int) -> dict[str, Tensor]:
        return load_checkpoint(self._file("best", step))[0]

    def prune_best(self, step: int) -> None:
        """Delete the best weights of other steps. The checkpoint that refers to `step` must have been saved."""
        for other in self._files("best"):
            if other != self._file("best", step):
                other.unlink()

    def require_space(self, size: int) -> None:
        """Raise InputError if `size` bytes, minus what this run already occupies, exceed the free disk space."""
        present = sum(file.stat().st_size for file in (*self._files("step"), *self._files("best")))
        require_free_space(self.folder, size - present, "checkpoints and weights of this run")

    def mark_complete(self) -> None:
        """Record that the run's outputs are written. Its last checkpoint stays until a different run starts."""
        self._scratch.mark_complete()

    def _file(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}.safetensors"

    def _files(self, kind: str) -> list[Path]:
        """Return the files sorted by step."""
        return sorted(self.folder.glob(f"{kind}-*.safetensors"))


def save_training(checkpoints: Checkpoints, step: int, trainer: Trainer, history: History, training_id: str) -> None:
    """Save everything that `load_or_init` restores after `step` steps."""
    tensors, state = trainer_state(trainer)
    state |= {"history": vars(history), "training_id": training_id, "processes": trainer.accelerator.num_processes}
    checkpoints.save(step, tensors, state)
    if len(history.validations) > 1:
        checkpoints.prune_best(history.best_step)


def load_or_init(checkpoints: Checkpoints, trainer: Trainer) -> tuple[History, int, str | None]:
    """Restore the newest checkpoint into `trainer`, or start a new run.

    Returns the history, the next step, and the id of the MLflow run, which is None for a new run. Raises InputError if
    the processes see different checkpoints, or if the checkpoint was written by a different number of processes, whose
    sums round differently.
    """
    saved, num_processes = checkpoints.load_latest(), trainer.accelerator.num_processes
    step = saved[1]["step"] if saved else 0
    if trainer.all_reduce_max(step) != step or -trainer.all_reduce_max(-step) != step:
        raise InputError(
            f"{checkpoints.folder}: the processes see different checkpoints; put this folder on a shared disk"
        )
    if saved is None:
        return History(), 0, None
    tensors, state = saved
    steps = trainer.schedule.steps
    if state["processes"] != num_processes and step < steps:
        raise InputError(
            f"{checkpoints.folder}: the checkpoint at step {step} was saved by {state['processes']} processes, and "
            f"{num_processes} would round differently; start {state['processes']}, or delete the folder to start over"
        )
    restore_trainer(trainer, tensors, state)
    log.info("resuming from step %d/%d (checkpoint in %s; delete it to start over)", step, steps, checkpoints.folder)
    return History(**state["history"]), step, state["training_id"]


def trainer_state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON-serializable state that `restore_trainer` needs."""
    tensors = prefixed("trainable", trainer.denoiser.trainable_parameters())
    tensors |= prefixed("ema", trainer.ema.trainable_parameters())
    tensors |= prefixed("optimizer", optimizer_tensors(trainer.optimizer))
    if trainer.pending_losses:
        tensors["pending_losses"] = torch.stack(trainer.pending_losses)
    scaler = trainer.accelerator.scaler
    return tensors, {
        "scaler": scaler.state_dict() if scaler else None,
        "skipped_in_a_row": trainer.skipped_in_a_row,
    }


def restore_trainer(trainer: Trainer, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    trainer.denoiser.load_trainable(unprefixed("trainable", tensors))
    trainer.ema.load_trainable(unprefixed("ema", tensors))
    restore_optimizer(trainer.optimizer, unprefixed("optimizer", tensors))
    if "pending_losses" in tensors:
        trainer.pending_losses = list(tensors["pending_losses"].to(trainer.accelerator.device))
    if trainer.accelerator.scaler:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.skipped_in_a_row = state["skipped_in_a_row"]
