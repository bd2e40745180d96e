"""Finished shards, kept outside DVC's outputs: a killed stage goes on with the next one, and a later run makes only
those anew whose inputs changed.

DVC deletes a stage's outputs before it runs the stage, so they cannot serve for this; the folder is in the main
repository's .dvc/tmp, which `dvc repro`, `--temp` and the queue share. A kept file is a hard link to the output where
the file system allows it, so that it takes no space of its own. Deleting the folder costs time and nothing else.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.artifacts import atomic_write, sha256_file, write_json
from finetune.paths import repository_root

PLACED = ".placed"  # beside a file that a complete run used
Note = dict[str, Any]  # JSON; "sha256" is of the file that the note is about


def finished_key(determinants: dict[str, Any], code: Sequence[str], packages: Collection[str]) -> str:
    """32 hexadecimal digits that differ when a determinant, a source file or a package's version differs."""
    content = {
        "determinants": determinants,
        "code": [sha256_file(Path(file)) for file in code],
        "packages": {package: version(package) for package in packages},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


class ShardCache:
    """Files with a note each, by a key of all that determines both. Two runs at once do not harm each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_stage(cls, stage: str, dataset: str) -> "ShardCache":
        return cls(repository_root().absolute() / ".dvc" / "tmp" / "shards" / stage / dataset)

    def take(self, key: str, path: Path) -> Note | None:
        """Put the file kept under `key` at `path`. None where there is none, or one that was damaged.

        What is at `path` already, left by a process that was killed there, is removed in any case.
        """
        path.unlink(missing_ok=True)
        try:
            note: Note = json.loads(self._note(key).read_text())
            _link(self._folder / key, path)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if sha256_file(path) != note["sha256"]:
            path.unlink()
            return None
        return note

    def keep(self, key: str, path: Path, note: Note) -> None:
        with suppress(FileNotFoundError, FileExistsError):  # another run is just keeping the same
            with atomic_write(self._folder / key) as partial:
                partial.unlink(missing_ok=True)
                _link(path, partial)
            write_json(self._note(key), note)

    def keep_only(self, keys: Collection[str]) -> None:
        """Remove what a run that is now complete did not use."""
        for file in self._folder.glob("[!.]*"):
            if file.stem not in keys:
                file.unlink(missing_ok=True)

    def keep_until_next(self, keys: Collection[str]) -> None:
        """As `keep_only`, but of a run that is not complete, such as another experiment's, nothing is removed.

        What this run used stays until another completes: DVC may be killed before it has stored the output.
        """
        for marker in self._folder.glob(f"*{PLACED}"):
            if marker.stem not in keys:
                for file in (marker, self._folder / marker.stem, self._note(marker.stem)):
                    file.unlink(missing_ok=True)
        for key in keys:
            (self._folder / key).with_suffix(PLACED).touch()

    def _note(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
