"""Files that stages pass to each other: atomic writes, hashes, and validation on reading."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from finetune.errors import InputError

MAX_NUMBER = 1e15  # larger than any metric of a run; charts cannot show more
Number = Annotated[int | float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
StandardDeviation = Annotated[Number, Field(ge=0)]
COLUMN = TypeAdapter(list[Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]])
HINT = "`dvc repro` or `git checkout` brings it back"
IMAGE_SETS = ("floor", "reconstructed", "base", "tuned")  # that the evaluation compares with the validation images


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty sibling directory to fill. It replaces `path` at the end, or is deleted after an error."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes them readable by their owner only
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write. It replaces `path` at the end, or is deleted after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys and a final newline, so that equal content gives equal bytes."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write one line per row, with the same line ending on every system."""
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def require_writable(*paths: Path) -> None:
    """Raise InputError if an output cannot be written, before hours are spent on its content."""
    for path in paths:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {folder}: {error.strerror}") from None


def hash_file(file: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file. algorithm: a name that `hashlib.new` accepts."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def sha256_file(file: Path) -> str:
    return hash_file(file, "sha256")


def fingerprint(**parts: Any) -> str:
    """Return 32 hexadecimal digits that identify `parts`: JSON values, and paths, which stand for their content.

    A file stands for its bytes, a folder for the names and bytes of the files below it.
    """
    content = json.dumps(parts, sort_keys=True, default=_content_hash)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _content_hash(path: Path) -> Any:
    if path.is_dir():
        return {file.relative_to(path).as_posix(): sha256_file(file) for file in path.rglob("*") if file.is_file()}
    return sha256_file(path)


class Section(BaseModel):
    """The keys that a reader needs. The file may have more."""

    model_config = ConfigDict(extra="allow")


class Protocol(Section):
    headline: str


class EvaluationMetrics(Section):
    """The part of metrics/fid.json that every reader needs."""

    floor: dict[str, Number]
    reconstructed: dict[str, Number]
    base: dict[str, Number]
    tuned: dict[str, Number]
    protocol: Protocol


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what numpy, Arrow, Pillow and tarfile raise for a damaged file into an InputError that names it."""
    try:
        yield
    except (EOFError, OSError, SyntaxError, TarError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # a problem of the machine, not of the content
            raise
        raise InputError(f"{path}: damaged ({error}); remove it and run `dvc repro`") from None


def read_json(path: Path, schema: Any = Any, hint: str = HINT) -> Any:
    """Return the content as plain dictionaries and lists, checked against any type that pydantic knows.

    Raises InputError that names the first wrong key and ends in `hint`.
    """
    adapter = TypeAdapter(schema)
    try:
        return adapter.dump_python(adapter.validate_json(_read_bytes(path, hint), strict=True))
    except ValidationError as errors:
        first = errors.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _unreadable(path, f"{key}: {first['msg']}" if key else first["msg"], hint) from None


def read_text(path: Path) -> str:
    """Raises InputError that names the file."""
    try:
        return _read_bytes(path, HINT).decode()
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"not UTF-8 at byte {error.start}", HINT) from None


def read_table(path: Path, numbers: Sequence[str], texts: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Return the columns of a CSV. `numbers` and `texts` must be among them; all columns except `texts` hold numbers.

    Raises InputError that names the first wrong column.
    """
    try:
        rows = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise _unreadable(path, f"not CSV: {error}", HINT) from None
    if len(rows) < 2 or len({*map(len, rows)}) > 1:
        raise _unreadable(path, "not a table: no rows, or rows of different lengths", HINT)
    columns: dict[str, list[Any]] = {name: list(column) for name, *column in zip(*rows, strict=True)}
    if missing := [name for name in (*numbers, *texts) if name not in columns]:
        raise _unreadable(path, f"no column {missing[0]}", HINT)
    for name in columns.keys() - {*texts}:
        try:
            columns[name] = COLUMN.validate_python(columns[name])
        except ValidationError as errors:
            raise _unreadable(path, f"column {name}: {errors.errors()[0]['msg']}", HINT) from None
    return columns


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def _read_bytes(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), hint) from None


def _unreadable(path: Path, problem: str, hint: str) -> InputError:
    return InputError(f"{path}: {problem}; {hint}")
