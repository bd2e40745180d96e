"""COCO 2017 as published: train2017.zip, val2017.zip and annotations_trainval2017.zip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import ijson
from ijson.common import JSONError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune.errors import InputError
from finetune.originals import Caption, Listing, Split, file_name
from finetune.zip_archive import open_text

ANNOTATIONS = "annotations_trainval2017.zip"
HALVES: dict[str, Split] = {"train2017": "train", "val2017": "validation"}
Id = Annotated[int, Field(ge=0, lt=10**12)]  # twelve digits, as in the file names


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)


class _Image(_Entry):
    id: Id
    file_name: str


class _Annotation(_Entry):
    id: Id
    image_id: Id
    caption: Caption


Entry = TypeVar("Entry", bound=_Entry)


def list_coco(folder: Path, listing: Listing) -> None:
    """train2017 trains; val2017 validates. Raises InputError for a fault of an archive as a whole."""
    for half, split in HALVES.items():
        listing.add(
            folder / f"{half}.zip",
            file_name,
            ((image.file_name, split) for image in _entries(folder, half, "images", _Image)),
            (
                (f"{annotation.image_id:012d}.jpg", annotation.id, annotation.caption)
                for annotation in _entries(folder, half, "annotations", _Annotation)
            ),
        )


def _entries(folder: Path, half: str, key: str, kind: type[Entry]) -> Iterator[Entry]:
    """The entries of one list of captions_*.json, one at a time: the file is 92 MB, and three times that in memory."""
    member = f"annotations/captions_{half}.json"
    number = -1
    try:
        with open_text(folder / ANNOTATIONS, member) as text:
            for number, entry in enumerate(ijson.items(text, f"{key}.item", use_float=True)):  # noqa: B007
                yield kind.model_validate(entry)
            fault = "" if number >= 0 else f"holds no {key}"
    except ValidationError as errors:
        first = errors.errors()[0]
        fault = f"{'.'.join(map(str, (key, number, *first['loc'])))}: {first['msg']}"
    except (JSONError, UnicodeDecodeError) as error:
        fault = f"not JSON: {' '.join(str(error).split())}"
    if fault:
        raise InputError(f"{folder / ANNOTATIONS}: {member}: {fault}; fetch the original archive again")
