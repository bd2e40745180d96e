"""Object masks from COCO's instance annotations (instances_*.json)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field

from finetune.data.transforms import RESOLUTION, Crop, crop_box
from finetune.datasets.coco import ANNOTATIONS, annotation_error, entries
from finetune.datasets.zip_reader import members

MAX_COORDINATE = 100_000  # pixels; larger values cannot belong to an image
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # width and height, pixels
Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE, allow_inf_nan=False)]
Polygon = Annotated[list[Coordinate], Field(min_length=4)]  # x, y, x, y, ...


class _Category(BaseModel):
    id: int
    name: str


class _RunLengths(BaseModel):
    """Run-length encoding in column-major order: pixels outside, inside, outside, ..."""

    counts: list[Annotated[int, Field(ge=0)]]


class _Instance(BaseModel):
    image_id: int
    category_id: int
    segmentation: list[Polygon] | _RunLengths  # run lengths for crowds


def read_masks(
    folder: Path, split: str, sizes: Mapping[int, Size], crop: Crop, side: int
) -> dict[int, dict[str, Mask]]:
    """Return image number -> category name -> mask `bool [side, side]`, aligned with the prepared square image.

    split: the annotated split, such as val2017. sizes: image number -> size of the original image. Images without
    objects are absent from the result, and it is empty if the archive has captions only. Raises InputError for
    annotations that cannot be read.
    """
    archive, file = folder / ANNOTATIONS, f"annotations/instances_{split}.json"
    if not any(member.name == file for member in members(archive)):
        return {}
    names = {category.id: category.name for category in entries(archive, file, "categories", _Category)}
    masks: dict[int, dict[str, Mask]] = {}
    for instance in entries(archive, file, "annotations", _Instance):
        if instance.image_id not in sizes:
            continue
        if instance.category_id not in names:
            raise annotation_error(archive, file, f"annotations: unknown category {instance.category_id}")
        full = _rasterize(instance.segmentation, sizes[instance.image_id])
        if full is None:
            raise annotation_error(
                archive, file, f"annotations: a mask of image {instance.image_id} does not match its size"
            )
        square = full.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=crop_box(full.size, crop))
        mask = np.asarray(square.resize((side, side), Image.Resampling.BOX)) >= 128
        of_image = masks.setdefault(instance.image_id, {})
        name = names[instance.category_id]
        of_image[name] = of_image[name] | mask if name in of_image else mask
    return masks


def _rasterize(segmentation: list[Polygon] | _RunLengths, size: Size) -> Image.Image | None:
    """Return a mask of 0 and 255, or None if run lengths do not cover the image or a coordinate has no pair."""
    if isinstance(segmentation, _RunLengths):
        width, height = size
        if sum(segmentation.counts) != width * height:
            return None
        values = np.arange(len(segmentation.counts)) % 2 * 255
        return Image.fromarray(np.repeat(values, segmentation.counts).reshape(width, height).T.astype(np.uint8))
    mask = Image.new("L", size)
    for polygon in segmentation:
        if len(polygon) % 2:
            return None
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    return mask
