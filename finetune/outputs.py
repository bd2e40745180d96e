"""Outputs that appear whole or not at all."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import InputError


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield an empty sibling to fill; it becomes `path` at the end, or nothing is left of it after an error."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*.safetensors"):
            file.chmod(0o644)  # the library makes them readable to their owner alone
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a sibling to write; it becomes `path` at the end, or nothing is left of it after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Sorted keys and a final newline: equal content, equal bytes."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A line for each row, the same on every system."""
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def require_writable(*paths: Path) -> None:
    """Raises InputError where an output could not be written, before hours are spent on what goes there."""
    for path in paths:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {folder}: {error.strerror}") from None
