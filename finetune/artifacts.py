"""Outputs that appear whole or not at all."""

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


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
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
def atomic_write(path: Path) -> Iterator[Path]:
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
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A line for each row, the same on every system."""
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
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


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Raises InputError for what numpy, Arrow, Pillow, tarfile and json say of a file that is not whole."""
    try:
        yield
    except (EOFError, OSError, SyntaxError, TarError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # the machine's fault, and none of the content's
            raise
        raise InputError(f"{path}: damaged ({error}); remove it and run `dvc repro`") from None


def load_json(path: Path) -> Any:
    """Raises InputError where it is not whole."""
    with intact(path):
        content: Any = json.loads(path.read_text())
    return content


def sha256_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


LARGEST = 1e15  # no figure of a run is beyond it, and no chart is drawn of what is
Number = Annotated[int | float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Deviation = Annotated[Number, Field(ge=0)]
REMEDY = "`dvc repro` or `git checkout` brings it back"
NUMBERS = TypeAdapter(list[Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]])


class Section(BaseModel):
    """The keys that a reader needs; others may stand beside them."""

    model_config = ConfigDict(extra="allow")


class Protocol(Section):
    headline: str


class Ladder(Section):
    """Of metrics/fid.json, what all its readers need."""

    floor: dict[str, Number]
    reconstructed: dict[str, Number]
    base: dict[str, Number]
    tuned: dict[str, Number]
    protocol: Protocol


def read_json(path: Path, schema: Any, remedy: str = REMEDY) -> Any:
    """The content as plain dictionaries and lists. schema: any type that pydantic knows.

    Raises InputError that names the first wrong key and ends in `remedy`.
    """
    adapter = TypeAdapter(schema)
    try:
        return adapter.dump_python(adapter.validate_json(_content(path, remedy), strict=True))
    except ValidationError as errors:
        fault = errors.errors()[0]
        raise _fault(path, ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])), remedy) from None


def read_text(path: Path) -> str:
    """Raises InputError that names the file."""
    try:
        return _content(path).decode()
    except UnicodeDecodeError as error:
        raise _fault(path, f"not UTF-8 at byte {error.start}") from None


def read_table(path: Path, numbers: Sequence[str], texts: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of a CSV, `numbers` and `texts` among them; all but `texts` must be numbers.

    Raises InputError that names the first wrong column.
    """
    try:
        rows = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise _fault(path, f"not CSV: {error}") from None
    if len(rows) < 2 or len({*map(len, rows)}) > 1:
        raise _fault(path, "not a table: no rows, or rows of different lengths")
    columns: dict[str, list[Any]] = {name: list(column) for name, *column in zip(*rows, strict=True)}
    if missing := [name for name in (*numbers, *texts) if name not in columns]:
        raise _fault(path, f"no column {missing[0]}")
    for name in columns.keys() - {*texts}:
        try:
            columns[name] = NUMBERS.validate_python(columns[name])
        except ValidationError as errors:
            raise _fault(path, f"column {name}: {errors.errors()[0]['msg']}") from None
    return columns


def _content(path: Path, remedy: str = REMEDY) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _fault(path, error.strerror or str(error), remedy) from None


def _fault(path: Path, fault: str, remedy: str = REMEDY) -> InputError:
    return InputError(f"{path}: {fault}; {remedy}")
