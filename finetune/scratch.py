"""State that must survive a killed run but is no DVC output: `.dvc/tmp/<kind>/<key>`.

DVC deletes a stage's outputs before it runs the stage, so a stage cannot resume from them. These folders lie in the
main repository's `.dvc/tmp`, which `dvc repro`, `dvc exp run --temp` and the experiment queue share. Deleting them
while nothing is running costs time and nothing else.
"""

import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager

from finetune.paths import repository_root
from finetune.process import exclusive_lock

COMPLETE = "complete"  # marks a folder whose content has become a stage's output


class Scratch:
    """One folder of scratch state. `key` identifies everything that determines its content."""

    def __init__(self, kind: str, key: str) -> None:
        self.folder = repository_root().absolute() / ".dvc" / "tmp" / kind / key

    def lock(self, busy: str) -> AbstractContextManager[None]:
        """Hold the folder for this process. Raises InputError with `busy` while another process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return exclusive_lock(self.folder.with_suffix(".lock"), busy)

    def mark_complete(self) -> None:
        """Allow `prune` to delete the folder, but not before another run: DVC may be killed before it has stored the
        stage's outputs."""
        (self.folder / COMPLETE).touch()

    def mark_in_use(self) -> None:
        (self.folder / COMPLETE).unlink(missing_ok=True)


def prune(kind: str, keep: Collection[str], unfinished: bool = False) -> None:
    """Delete the complete folders of a kind whose key is not in `keep`, and with `unfinished` the others too.

    Other runs may do the same at the same time.
    """
    for folder in (repository_root().absolute() / ".dvc" / "tmp" / kind).glob("*/"):
        if folder.name not in keep and (unfinished or (folder / COMPLETE).exists()):
            shutil.rmtree(folder, ignore_errors=True)
