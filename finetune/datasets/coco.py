"""Read COCO 2017 as published: train2017.zip, val2017.zip and annotations_trainval2017.zip."""

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
SPLITS: dict[str, Split] = {"train2017": "train", "val2017": "validation"}
MAX_DEPTH = 64  # nested lists and objects; COCO has six levels
NESTING = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}
Id = Annotated[int, Field(ge=0, lt=10**12)]  # at most twelve digits, as in the file names


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


def index_coco(folder: Path, catalog: Catalog) -> None:
    """Add both splits to the catalog. Raises InputError for an archive or annotation file that cannot be read."""
    for name, split in SPLITS.items():
        catalog.add(
            folder / f"{name}.zip",
            file_name,
            ((image.file_name, split) for image in _captions_file(folder, name, "images", _Image)),
            (
                (f"{annotation.image_id:012d}.jpg", annotation.id, annotation.caption)
                for annotation in _captions_file(folder, name, "annotations", _Annotation)
            ),
        )


@contextmanager
def open_json(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a JSON member for ijson.

    Deep nesting is rejected first, because ijson's time per value grows with depth. Raises InputError for invalid
    JSON, also while the block reads it.
    """
    try:
        with open_text(archive, member) as text:
            depths = accumulate(NESTING.get(event, 0) for event, _ in ijson.basic_parse(text, use_float=True))
            if any(depth > MAX_DEPTH for depth in depths):
                raise JSONError(f"more than {MAX_DEPTH} levels")
        with open_text(archive, member) as text:
            yield text
    except (JSONError, UnicodeDecodeError) as error:
        raise annotation_error(archive, member, f"not JSON: {' '.join(str(error).split())}") from None


def entries(archive: Path, member: str, key: str, model: type[Entry]) -> Iterator[Entry]:
    """Yield the entries of one list in a JSON file.

    They are streamed: COCO's captions take 92 MB on disk and three times that in memory. Raises InputError that names
    the first entry which does not fit `model`.
    """
    number = 0
    try:
        with open_json(archive, member) as text:
            for number, entry in enumerate(ijson.items(text, f"{key}.item", use_float=True)):  # noqa: B007
                yield model.model_validate(entry)
    except ValidationError as errors:
        first = errors.errors()[0]
        where = ".".join(map(str, (key, number, *first["loc"])))
        raise annotation_error(archive, member, f"{where}: {first['msg']}") from None


def annotation_error(archive: Path, member: str, problem: str) -> InputError:
    return InputError(f"{archive}: {member}: {problem}; fetch the original archive again")


def _captions_file(folder: Path, name: str, key: str, model: type[Entry]) -> Iterator[Entry]:
    archive, member = folder / ANNOTATIONS, f"annotations/captions_{name}.json"
    entry = None
    for entry in entries(archive, member, key, model):
        yield entry
    if entry is None:
        raise annotation_error(archive, member, f"contains no {key}")
