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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.repository import repository_root

FINISHED = "finished"


def run_key(determinants: dict[str, Any], files: list[Path]) -> str:
    """16 hexadecimal digits that differ when the parameters, a file, our code or a library's version differ."""
    ours = ("finetune", "stages", "__main__")
    loaded = {name: getattr(sys.modules[name], "__file__", None) for name in list(sys.modules) if name.startswith(ours)}
    content = {
        "versions": {name: version(name) for name in ("accelerate", "diffusers", "torch", "transformers")},
        "determinants": determinants,
        "code": {name: sha256_of(Path(file)) for name, file in sorted(loaded.items()) if file},
        "files": {str(file): sha256_of(file) for file in sorted(files)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Checkpoints:
    """The resume points of one run, oldest first by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        save_checkpoint(self.folder / f"step-{step:08d}.safetensors", tensors, state | {"step": step})
        for old in self._files()[:-1]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        files = self._files()
        return load_checkpoint(files[-1]) if files else None

    def finish(self) -> None:
        """The run's outputs are written. Its last checkpoint stays until another run starts: DVC may be killed yet."""
        (self.folder / FINISHED).touch()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


@contextmanager
def exclusive(key: str) -> Iterator[Checkpoints]:
    """The checkpoints of a run, for one process at a time.

    Raises InputError while another process trains the same run, such as one orphaned by a killed `dvc`.
    """
    folder = repository_root() / ".dvc/tmp/resume" / key
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.glob(f"*/{FINISHED}"):
        if other.parent != folder:
            shutil.rmtree(other.parent)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{lock.name}: another process is training this very run; wait for it or stop it (`fuser {lock.name}`)"
            ) from None
        yield Checkpoints(folder)
