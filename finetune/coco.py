"""COCO 2017 as published: train2017.zip, val2017.zip and annotations_trainval2017.zip."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from finetune.errors import InputError
from finetune.originals import Listing, Split, match, open_archive, read_text

ANNOTATIONS = "annotations_trainval2017.zip"


@dataclass(frozen=True, slots=True)
class _Image:
    id: int
    file_name: str


@dataclass(frozen=True, slots=True)
class _Annotation:
    id: int
    image_id: int
    caption: str


@dataclass(frozen=True, slots=True)
class _Captions:
    """The part of captions_*.json that is read; other keys are skipped without being stored."""

    images: list[_Image]
    annotations: list[_Annotation]


def list_coco(folder: Path) -> Listing:
    """train2017 trains; val2017 validates. Raises InputError for a fault of an archive as a whole."""
    return _list_half(folder, "train2017", "train") + _list_half(folder, "val2017", "validation")


def _list_half(folder: Path, half: str, split: Split) -> Listing:
    with open_archive(folder / ANNOTATIONS) as archive:
        member = f"annotations/captions_{half}.json"
        content = read_text(archive, member)
    try:
        parsed = TypeAdapter(_Captions).validate_json(content, strict=True)
    except ValidationError as errors:
        fault = errors.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(
            f"{folder / ANNOTATIONS}: {member}: {where}: {fault['msg']}; fetch the original archive again"
        ) from None
    names = {image.id: image.file_name for image in parsed.images}
    captions = defaultdict[str, list[str]](list)
    for annotation in sorted(parsed.annotations, key=lambda annotation: annotation.id):
        name = names.get(annotation.image_id, f"{annotation.image_id:012d}.jpg")
        captions[name].append(annotation.caption)
    return match(folder / f"{half}.zip", captions, dict.fromkeys(names.values(), split))
