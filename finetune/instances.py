"""Which pixels of COCO's images show what: the outlines in instances_*.json."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import ijson
import numpy as np
from ijson.common import JSONError
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ValidationError

from finetune.coco import ANNOTATIONS
from finetune.errors import InputError
from finetune.pixels import Crop, to_square
from finetune.zip_archive import members, open_text

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # width and height, pixels


class _Category(BaseModel):
    id: int
    name: str


class _Runs(BaseModel):
    """Column by column: so many pixels outside, so many inside, and so on."""

    counts: list[int]


class _Instance(BaseModel):
    image_id: int
    category_id: int
    segmentation: list[list[float]] | _Runs  # polygons x, y, x, y, ... or, of crowds, runs


Entry = TypeVar("Entry", bound=BaseModel)


def read_masks(folder: Path, half: str, sizes: Mapping[int, Size], crop: Crop, side: int) -> dict[int, dict[str, Mask]]:
    """Where the images named by `sizes` show each category, on a grid `[side, side]` over the prepared picture.

    sizes: of the original pictures by image number. Images without objects are missing in the result, all of them
    where the archive holds captions alone. Raises InputError for outlines that cannot be read.
    """
    if not any(member.name == _member(half) for member in members(folder / ANNOTATIONS)):
        return {}
    names = {category.id: category.name for category in _entries(folder, half, "categories", _Category)}
    masks: dict[int, dict[str, Mask]] = {}
    for instance in _entries(folder, half, "annotations", _Instance):
        if instance.image_id not in sizes:
            continue
        square = to_square(_draw(instance.segmentation, sizes[instance.image_id]), crop)
        mask = np.asarray(square.resize((side, side), Image.Resampling.BOX)) >= 128
        known = masks.setdefault(instance.image_id, {})
        name = names[instance.category_id]
        known[name] = known[name] | mask if name in known else mask
    return masks


def _draw(segmentation: list[list[float]] | _Runs, size: Size) -> Image.Image:
    if isinstance(segmentation, _Runs):
        width, height = size
        values = np.arange(len(segmentation.counts)) % 2 * 255
        return Image.fromarray(np.repeat(values, segmentation.counts).reshape(width, height).T.astype(np.uint8))
    mask = Image.new("L", size)
    for polygon in segmentation:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    return mask


def _member(half: str) -> str:
    return f"annotations/instances_{half}.json"


def _entries(folder: Path, half: str, key: str, kind: type[Entry]) -> Iterator[Entry]:
    member = _member(half)
    try:
        with open_text(folder / ANNOTATIONS, member) as text:
            for entry in ijson.items(text, f"{key}.item", use_float=True):
                yield kind.model_validate(entry)
    except (JSONError, UnicodeDecodeError, ValidationError) as error:
        fault = " ".join(str(error).split())
        raise InputError(f"{folder / ANNOTATIONS}: {member}: {fault}; fetch the original archive again") from None
