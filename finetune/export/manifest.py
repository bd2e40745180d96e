"""A manifest of the files of a folder with their hashes, so that any copy can be verified."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel

from finetune.artifacts import hash_file, read_json, sha256_file, write_json
from finetune.errors import InputError

MANIFEST = "manifest.json"


class Entry(BaseModel):
    bytes: int
    sha256: str


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 and size of every other file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST,
        {f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files},
    )


def check_manifest(folder: Path, hint: str) -> None:
    """Raise InputError at the first file that is missing, changed, or not listed. The message ends in `hint`."""
    listed = read_json(folder / MANIFEST, dict[str, Entry], hint)
    for name, entry in listed.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: no such file; {hint}")
        if file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            raise InputError(f"{file}: does not match {MANIFEST}; {hint}")
    known = {folder / name for name in (*listed, MANIFEST)}
    for path in sorted(folder.rglob("*")):
        if path not in known and _may_be_loaded(path, folder):
            raise InputError(f"{path}: not listed in {MANIFEST}; delete it, or {hint}")


def _may_be_loaded(path: Path, folder: Path) -> bool:
    """Ignore hidden files, which git, DVC and desktops leave. A linked folder counts: its content is not listed."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and (path.is_symlink() or not path.is_dir())


def dvc_md5(path: Path) -> str:
    """Return the hash that dvc.lock has for a path. A folder's is the md5 of the list of its files, plus `.dir`.

    Raises FileNotFoundError if the path does not exist.
    """
    if not path.is_dir():
        return hash_file(path, "md5")
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": hash_file(files[name], "md5"), "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest()}.dir"
