"""State that must survive a killed run but is not a DVC output: `.dvc/tmp/<kind>/<key>`.

DVC deletes a stage's outputs before it runs the stage, so a stage cannot resume from them. These folders are in the
main repository's `.dvc/tmp`, which `dvc repro`, `dvc exp run --temp` and the experiment queue share. Deleting them
while nothing is running only costs time.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from finetune.paths import repository_root
from finetune.process import exclusive_lock

COMPLETE = "complete"  # marks a folder whose content has become a stage's output


class Scratch:
    """One folder of scratch state. `key` identifies everything that determines its content."""

    def __init__(self, kind: str, key: str) -> None:
        self.folder = _root(kind) / key

    def lock(self, busy: str) -> AbstractContextManager[None]:
        """Hold the folder for this process. Raises InputError with `busy` while another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return exclusive_lock(self.folder.with_suffix(".lock"), busy)

    def mark_complete(self) -> None:
        """Allow a later run to prune the folder. This run keeps it, because DVC may be killed before it has stored
        the stage's outputs.
        """
        (self.folder / COMPLETE).touch()

    def mark_in_use(self) -> None:
        (self.folder / COMPLETE).unlink(missing_ok=True)


def prune(kind: str, keep: Collection[str], unfinished: bool = False) -> None:
    """Delete the complete folders of a kind whose key is not in `keep`, and with `unfinished` the others too.

    Safe to call from concurrent runs.
    """
    for folder in _root(kind).glob("*/"):
        if folder.name not in keep and (unfinished or (folder / COMPLETE).exists()):
            shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the file system requires it."""
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # a different file system, or one without hard links
        shutil.copyfile(source, target)


def _root(kind: str) -> Path:
    return repository_root().absolute() / ".dvc" / "tmp" / kind
