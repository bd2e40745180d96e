"""Which pixels of COCO's images show what: the outlines in instances_*.json."""

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

FAR = 100_000  # pixels; what lies beyond is no place in an image
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # width and height, pixels
Coordinate = Annotated[float, Field(ge=-FAR, le=FAR, allow_inf_nan=False)]
Polygon = Annotated[list[Coordinate], Field(min_length=4)]  # x, y, x, y, ...


class _Category(BaseModel):
    id: int
    name: str


class _Runs(BaseModel):
    """Column by column: so many pixels outside, so many inside, and so on."""

    counts: list[Annotated[int, Field(ge=0)]]


class _Instance(BaseModel):
    image_id: int
    category_id: int
    segmentation: list[Polygon] | _Runs  # of crowds, runs


def read_masks(folder: Path, half: str, sizes: Mapping[int, Size], crop: Crop, side: int) -> dict[int, dict[str, Mask]]:
    """Where the images named by `sizes` show each category, on a grid `[side, side]` over the prepared image.

    sizes: of the original images by image number. Images without objects are missing in the result, all of them
    where the archive holds captions alone. Raises InputError for outlines that cannot be read.
    """
    archive, file = folder / ANNOTATIONS, f"annotations/instances_{half}.json"
    if not any(member.name == file for member in members(archive)):
        return {}
    names = {category.id: category.name for category in entries(archive, file, "categories", _Category)}
    masks: dict[int, dict[str, Mask]] = {}
    for instance in entries(archive, file, "annotations", _Instance):
        if instance.image_id not in sizes:
            continue
        if instance.category_id not in names:
            raise annotation_error(archive, file, f"annotations: there is no category {instance.category_id}")
        drawn = _draw(instance.segmentation, sizes[instance.image_id])
        if drawn is None:
            raise annotation_error(
                archive, file, f"annotations: an outline in image {instance.image_id} does not fit its size"
            )
        square = drawn.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=crop_box(drawn.size, crop))
        mask = np.asarray(square.resize((side, side), Image.Resampling.BOX)) >= 128
        known = masks.setdefault(instance.image_id, {})
        name = names[instance.category_id]
        known[name] = known[name] | mask if name in known else mask
    return masks


def _draw(segmentation: list[Polygon] | _Runs, size: Size) -> Image.Image | None:
    """None for runs of another number of pixels, or half a point."""
    if isinstance(segmentation, _Runs):
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
