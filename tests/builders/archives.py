"""Small COCO and Flickr8k archives written by hand, and where the real ones are."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.datasets.catalog import Catalog, SourceImage

ROOT = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("PHOTOS", ROOT.parent / "shared" / "photos"))
needs_photos = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"no real photos at {PHOTOS}; name another folder in PHOTOS"
)


@dataclass(frozen=True)
class Listed:
    """All that a listing tells, train first, each split by id."""

    originals: list[SourceImage]
    dropped: dict[str, list[str]]


def listed(list_dataset: Callable[[Path, Catalog], None], raw: Path) -> Listed:
    """What a dataset's parser finds in the folder `raw`."""
    with TemporaryDirectory() as folder:
        listing = Catalog(Path(folder) / "listing.sqlite")
        list_dataset(raw, listing)
        listing.finalize(shards=1)
        originals = [original for shard in listing.shards() for original in listing.originals(*shard)]
        dropped = listing.dropped()
        listing.close()
    return Listed(originals, dropped)


def image_bytes(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A lossless image of noise: equal seeds give equal pixels, different ones different pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def coco_json(captions: dict[int, list[str]]) -> bytes:
    """The captions file for images of those ids."""
    texts = [(image, text) for image, texts in captions.items() for text in texts]
    content: dict[str, Any] = {
        "info": {},
        "licenses": [],
        "images": [{"id": image, "file_name": f"{image:012d}.jpg"} for image in captions],
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)],
    }
    return json.dumps(content).encode()


def write_coco(folder: Path, train: dict[int, bytes], validation: dict[int, bytes]) -> Path:
    """Archives with these images by image id, two captions each."""
    annotations = {}
    for half, images in (("train2017", train), ("val2017", validation)):
        members = {f"{half}/{image:012d}.jpg": content for image, content in images.items()}
        write_zip(folder / f"{half}.zip", {f"{half}/": b""} | members)
        captions = {image: [f"image {image}", f" again image {image}\n"] for image in images}
        annotations[f"annotations/captions_{half}.json"] = coco_json(captions)
    write_zip(folder / "annotations_trainval2017.zip", annotations)
    return folder


def write_flickr8k(folder: Path, images: dict[str, bytes], tokens: str, lists: dict[str, str]) -> Path:
    """Archives with these images by member name, this token file, and a split list for train, dev and test."""
    write_zip(folder / "Flickr8k_Dataset.zip", images)
    texts = {f"Flickr_8k.{split}Images.txt": names.encode() for split, names in lists.items()}
    write_zip(folder / "Flickr8k_text.zip", {"Flickr8k.token.txt": tokens.encode()} | texts)
    return folder
