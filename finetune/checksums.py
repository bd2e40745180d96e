"""Hashes of files."""

import hashlib
from pathlib import Path


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
