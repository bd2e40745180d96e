"""Images beside a metadata.jsonl, in a zip: the imagefolder convention of Hugging Face's datasets library.

    {"file_name": "cats/1.jpg", "text": "a cat on a sofa"}
    {"file_name": "cats/2.jpg", "text": ["two cats", "cats that play"]}

Other keys are passed over. Images in a folder called validation, or one of the names below, are held out.
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
HELD_OUT = {"dev", "test", "val", "valid", "validation"}


class _Picture(BaseModel):
    model_config = ConfigDict(strict=True)

    file_name: str
    text: Caption | list[Caption]


def index_imagefolder(folder: Path, listing: Catalog) -> None:
    """Every zip of the folder, each with one metadata.jsonl or several, at any depth.

    Raises InputError that names the archive and the line at fault.
    """
    for archive in sorted(folder.glob("*.zip")):
        paths = [member.name for member in members(archive) if PurePosixPath(member.name).name == METADATA]
        metadata = [path for path in paths if inside(path)]
        if not metadata:
            raise InputError(f"{archive}: holds no {METADATA}; put one beside the images, see docs/own-data.md")
        numbers = count()
        listing.add(
            archive,
            inside,
            ((name, _split(name)) for name, _ in _pictures(archive, metadata)),
            ((name, next(numbers), text) for name, texts in _pictures(archive, metadata) for text in texts),
        )


def inside(path: str) -> str | None:
    """The path in its plainest form; None where it leads out of the archive or belongs to macOS."""
    plain = posixpath.normpath(path)
    leads_out = plain.startswith(("/", "..")) or "\\" in plain or not plain.isprintable()
    return None if leads_out or plain.startswith("__MACOSX/") else plain


def _split(name: str) -> Split:
    return "validation" if HELD_OUT & {*PurePosixPath(name).parent.parts} else "train"


def _pictures(archive: Path, metadata: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Name and captions of every line."""
    for member in metadata:
        for number, line in read_lines(archive, member):
            try:
                image = _Picture.model_validate_json(line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
            except ValidationError as errors:
                fault = errors.errors()[0]
                where = "".join(f"{part}: " for part in fault["loc"])
                raise _fault(archive, member, number, f"{where}{fault['msg']}") from None
            name = inside(posixpath.join(posixpath.dirname(member), image.file_name))
            if name is None:
                raise _fault(archive, member, number, f"{image.file_name!r} leads out of the archive")
            yield name, [image.text] if isinstance(image.text, str) else image.text


def _fault(archive: Path, member: str, number: int, fault: str) -> InputError:
    remedy = "correct it in your folder or zip, and the checksum in params.yaml, see docs/own-data.md"
    return InputError(f"{archive}: {member}, line {number}: {fault}; {remedy}")
