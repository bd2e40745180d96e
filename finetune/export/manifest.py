"""A folder's list of its own files with their hashes: what makes a copy of the model checkable anywhere."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel

from finetune.artifacts import hash_file, read_json, sha256_file, write_json
from finetune.errors import InputError

MANIFEST = "manifest.json"


class Listed(BaseModel):
    bytes: int
    sha256: str


def write_manifest(folder: Path) -> None:
    """List every file below `folder`, itself excepted, with its sha256 and size in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST,
        {f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files},
    )


def check_manifest(folder: Path, remedy: str) -> None:
    """Raise InputError, which ends in `remedy`, at the first file that is missing, not as listed or not listed."""
    listed = read_json(folder / MANIFEST, dict[str, Listed], remedy)
    for name, entry in listed.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: no such file; {remedy}")
        if file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            raise InputError(f"{file}: not the bytes that {MANIFEST} lists; {remedy}")
    known = {folder / name for name in (*listed, MANIFEST)}
    for path in sorted(folder.rglob("*")):
        if path not in known and _may_be_loaded(path, folder):
            raise InputError(f"{path}: not among what {MANIFEST} lists; delete it, or {remedy}")


def _may_be_loaded(path: Path, folder: Path) -> bool:
    """Nothing hidden, such as git, DVC and desktops leave; but a linked folder, which is not looked into."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and (path.is_symlink() or not path.is_dir())


def dvc_md5(path: Path) -> str:
    """Of a file, or of a folder, whose md5 ends in `.dir`: that of the list of its files.

    Raises FileNotFoundError where there is neither.
    """
    if not path.is_dir():
        return hash_file(path, "md5")
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": hash_file(files[name], "md5"), "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest()}.dir"
