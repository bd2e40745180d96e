"""The md5 by which dvc.lock knows an output."""

import hashlib
import json
from pathlib import Path


def lock_md5(path: Path) -> str:
    """Of a file, or of a folder, whose md5 ends in `.dir`: that of the list of its files.

    Raises FileNotFoundError where there is neither.
    """
    if not path.is_dir():
        return _md5_of(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": _md5_of(files[name]), "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest()}.dir"


def _md5_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
