"""Figures in JSON, CSV and text, checked where they are read: git merges metrics/ by lines, and anyone may edit it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from finetune.errors import InputError

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
