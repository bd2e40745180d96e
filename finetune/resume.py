"""Where an interrupted training waits: outside DVC's outputs, under a name that says what run it belongs to.

`persist: true` outputs would leak one run's weights into another's and are lost by `dvc exp run`; a folder in the
main repository's .dvc/tmp, named by a hash of everything that determines the run, survives `dvc repro`, `--temp`
and the queue alike, and a run with other parameters or inputs cannot see it.
"""

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.repository import repository_root

KEPT = 2  # the newest, and the one before it


def run_key(determinants: dict[str, Any], files: list[Path]) -> str:
    """16 hexadecimal digits that differ when the parameters, any of the files, our code or torch's version differ."""
    loaded = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("finetune"))
    content = {
        "determinants": determinants,
        "code": {Path(file).name: sha256_of(Path(file)) for file in loaded if file},
        "files": {str(file): sha256_of(file) for file in sorted(files)},
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Checkpoints:
    """The resume points of one run, oldest first by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        save_checkpoint(self.folder / f"step-{step:08d}.safetensors", tensors, state | {"step": step})
        for old in self._files()[:-KEPT]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        files = self._files()
        return load_checkpoint(files[-1]) if files else None

    def clear(self) -> None:
        """Forget the run: its outputs are complete."""
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


@contextmanager
def exclusive(key: str) -> Iterator[Checkpoints]:
    """The checkpoints of a run, for one process at a time.

    Raises InputError while another process trains the same run, such as one orphaned by a killed `dvc`.
    """
    folder = repository_root() / ".dvc/tmp/resume" / key
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{lock.name}: another process is training this very run; wait for it or stop it (`fuser {lock.name}`)"
            ) from None
        yield Checkpoints(folder)
