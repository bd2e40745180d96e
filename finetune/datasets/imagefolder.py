"""Read zip archives of images with a metadata.jsonl, as Hugging Face's `datasets` defines an imagefolder.

    {"file_name": "cats/1.jpg", "text": "a cat on a sofa"}
    {"file_name": "cats/2.jpg", "text": ["two cats", "cats that play"]}

Other keys are ignored. Images below a folder named in VALIDATION_FOLDERS are validation images.
"""

import posixpath
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune.datasets.catalog import Caption, Catalog, Split
from finetune.datasets.zip_reader import members, read_lines
from finetune.errors import InputError

METADATA = "metadata.jsonl"
VALIDATION_FOLDERS = {"dev", "test", "val", "valid", "validation"}


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)

    file_name: str
    text: Caption | list[Caption]


def index_imagefolder(folder: Path, catalog: Catalog) -> None:
    """Add every zip of the folder to the catalog. Each needs a metadata.jsonl, and may have several at any depth.

    Raises InputError that names the archive and the wrong line.
    """
    for archive in sorted(folder.glob("*.zip")):
        paths = [member.name for member in members(archive) if PurePosixPath(member.name).name == METADATA]
        metadata = [path for path in paths if normalize(path)]
        if not metadata:
            raise InputError(f"{archive}: contains no {METADATA}; add one next to the images, see docs/own-data.md")
        numbers = count()
        catalog.add(
            archive,
            normalize,
            ((name, _split(name)) for name, _ in _read_metadata(archive, metadata)),
            ((name, next(numbers), text) for name, texts in _read_metadata(archive, metadata) for text in texts),
        )


def normalize(path: str) -> str | None:
    """Return the path without `.` and `..`, or None if it leaves the archive, is unprintable or belongs to macOS."""
    normal = posixpath.normpath(path)
    unsafe = normal.startswith(("/", "..")) or "\\" in normal or not normal.isprintable()
    return None if unsafe or normal.startswith("__MACOSX/") else normal


def _split(name: str) -> Split:
    return "validation" if VALIDATION_FOLDERS & {*PurePosixPath(name).parent.parts} else "train"


def _read_metadata(archive: Path, metadata: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the image's name and captions from every line."""
    for member in metadata:
        for number, text in read_lines(archive, member):
            try:
                line = _Line.model_validate_json(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
            except ValidationError as errors:
                first = errors.errors()[0]
                key = "".join(f"{part}: " for part in first["loc"])
                raise _line_error(archive, member, number, f"{key}{first['msg']}") from None
            name = normalize(posixpath.join(posixpath.dirname(member), line.file_name))
            if name is None:
                raise _line_error(archive, member, number, f"{line.file_name!r} leads out of the archive")
            yield name, [line.text] if isinstance(line.text, str) else line.text


def _line_error(archive: Path, member: str, number: int, problem: str) -> InputError:
    hint = "correct it in your folder or zip, and the checksum in params.yaml, see docs/own-data.md"
    return InputError(f"{archive}: {member}, line {number}: {problem}; {hint}")
