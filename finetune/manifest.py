"""A folder's list of its own files with their hashes: what makes a copy of the model checkable anywhere."""

import json
from pathlib import Path

from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.outputs import write_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """List every file below `folder`, itself excepted, with its sha256 and size in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST,
        {f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in files},
    )


def check_manifest(folder: Path, remedy: str) -> None:
    """Raise InputError, which ends in `remedy`, at the first file that is missing or not as listed."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such file; {remedy}")
    for name, listed in json.loads(manifest.read_text()).items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: no such file; {remedy}")
        if file.stat().st_size != listed["bytes"] or sha256_of(file) != listed["sha256"]:
            raise InputError(f"{file}: not the bytes that {MANIFEST} lists; {remedy}")
