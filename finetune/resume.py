"""Where an interrupted training waits: outside DVC's outputs, under a name that says what run it belongs to.

`persist: true` outputs would leak one run's weights into another's and are lost by `dvc exp run`; a folder in the
main repository's .dvc/tmp, named by a hash of everything that determines the run, survives `dvc repro`, `--temp`
and the queue alike, and a run with other parameters or inputs cannot see it.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.locks import exclusive_lock
from finetune.repository import repository_root

FINISHED = "finished"
PACKAGES = ("accelerate", "bitsandbytes", "diffusers", "numpy", "peft", "torch", "transformers")  # that make the steps


def run_key(determinants: dict[str, Any], files: list[Path]) -> str:
    """16 hexadecimal digits that differ when the parameters, a file, our code or a library's version differ."""
    ours = ("finetune", "stages", "__main__")
    loaded = {name: getattr(sys.modules[name], "__file__", None) for name in list(sys.modules) if name.startswith(ours)}
    content = {
        "versions": {package: _version(package) for package in PACKAGES},
        "determinants": determinants,
        "code": {name: sha256_of(Path(file)) for name, file in sorted(loaded.items()) if file},
        "files": {str(file): sha256_of(file) for file in sorted(files)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):  # bitsandbytes is optional
        return version(package)
    return None


def checkpoint_bytes(learned: int, optimizer: int) -> int:
    """Of what a training keeps here: two resume points (weights, averages, optimizer's state) and the best averages."""
    return 2 * (2 * learned + optimizer) + learned


class Checkpoints:
    """The resume points of one run, and the averaged weights that did best so far."""

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
