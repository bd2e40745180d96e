"""COCO 2017 as published: train2017.zip, val2017.zip and annotations_trainval2017.zip."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, Annotated, TypeVar

import ijson
from ijson.common import JSONError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune.datasets.catalog import Caption, Catalog, Split, file_name
from finetune.datasets.zip_reader import open_text
from finetune.errors import InputError

ANNOTATIONS = "annotations_trainval2017.zip"
HALVES: dict[str, Split] = {"train2017": "train", "val2017": "validation"}
DEEPEST = 64  # levels of lists and objects in each other; COCO has six
STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}
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


Entry = TypeVar("Entry", bound=BaseModel)


def index_coco(folder: Path, listing: Catalog) -> None:
    """train2017 trains; val2017 validates. Raises InputError for a fault of an archive as a whole."""
    for half, split in HALVES.items():
        listing.add(
            folder / f"{half}.zip",
            file_name,
            ((image.file_name, split) for image in _some(folder, half, "images", _Image)),
            (
                (f"{annotation.image_id:012d}.jpg", annotation.id, annotation.caption)
                for annotation in _some(folder, half, "annotations", _Annotation)
            ),
        )


@contextmanager
def open_json(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """A member that ijson reads in a time that grows with its length alone: with the depth it grows too.

    Raises InputError for what is not JSON, here or while it is read.
    """
    try:
        with open_text(archive, member) as text:
            depths = accumulate(STEPS.get(event, 0) for event, _ in ijson.basic_parse(text, use_float=True))
            if any(depth > DEEPEST for depth in depths):
                raise JSONError(f"more than {DEEPEST} levels")
        with open_text(archive, member) as text:
            yield text
    except (JSONError, UnicodeDecodeError) as error:
        raise fault(archive, member, f"not JSON: {' '.join(str(error).split())}") from None


def entries(archive: Path, member: str, key: str, kind: type[Entry]) -> Iterator[Entry]:
    """Of one list in a JSON file, one at a time: COCO's captions are 92 MB, and three times that in memory.

    Raises InputError that names the first which is not of its kind.
    """
    number = 0
    try:
        with open_json(archive, member) as text:
            for number, entry in enumerate(ijson.items(text, f"{key}.item", use_float=True)):  # noqa: B007
                yield kind.model_validate(entry)
    except ValidationError as errors:
        first = errors.errors()[0]
        raise fault(archive, member, f"{'.'.join(map(str, (key, number, *first['loc'])))}: {first['msg']}") from None


def _some(folder: Path, half: str, key: str, kind: type[Entry]) -> Iterator[Entry]:
    archive, member = folder / ANNOTATIONS, f"annotations/captions_{half}.json"
    entry = None
    for entry in entries(archive, member, key, kind):
        yield entry
    if entry is None:
        raise fault(archive, member, f"holds no {key}")


def fault(archive: Path, member: str, what: str) -> InputError:
    return InputError(f"{archive}: {member}: {what}; fetch the original archive again")
