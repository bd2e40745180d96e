"""Small COCO and Flickr8k archives, and the folder of real ones."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from contextlib import closing
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
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no real photos at {PHOTOS}; set PHOTOS to their folder")


@dataclass(frozen=True)
class CatalogContents:
    """source_images: train first, ordered by id within a split. dropped: reason -> names."""

    source_images: list[SourceImage]
    dropped: dict[str, list[str]]


def read_catalog(index: Callable[[Path, Catalog], None], raw: Path) -> CatalogContents:
    """Fill a catalog by calling `index` on the folder `raw`, and return what it contains."""
    with TemporaryDirectory() as folder, closing(Catalog(Path(folder) / "catalog.sqlite")) as catalog:
        index(raw, catalog)
        catalog.finalize(shards=1)
        images = [image for shard in catalog.shards() for image in catalog.source_images(*shard)]
        return CatalogContents(images, catalog.dropped())


def image_bytes(seed: int, width: int = 40, height: int = 30) -> bytes:
    """Return a lossless image of noise that depends on the seed."""
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
    """Return a captions file. captions: image id -> captions."""
    texts = [(image, text) for image, texts in captions.items() for text in texts]
    content: dict[str, Any] = {
        "info": {},
        "licenses": [],
        "images": [{"id": image, "file_name": f"{image:012d}.jpg"} for image in captions],
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)],
    }
    return json.dumps(content).encode()


def write_coco(folder: Path, train: dict[int, bytes], validation: dict[int, bytes]) -> Path:
    """Write archives with these images by id, and two captions for each."""
    annotations = {}
    for split, images in (("train2017", train), ("val2017", validation)):
        members = {f"{split}/{image:012d}.jpg": content for image, content in images.items()}
        write_zip(folder / f"{split}.zip", {f"{split}/": b""} | members)
        captions = {image: [f"image {image}", f" again image {image}\n"] for image in images}
        annotations[f"annotations/captions_{split}.json"] = coco_json(captions)
    write_zip(folder / "annotations_trainval2017.zip", annotations)
    return folder


def write_flickr8k(folder: Path, images: dict[str, bytes], captions: str, lists: dict[str, str]) -> Path:
    """Write archives with these images by member name, this captions file, and the lists train, dev and test."""
    write_zip(folder / "Flickr8k_Dataset.zip", images)
    texts = {f"Flickr_8k.{split}Images.txt": names.encode() for split, names in lists.items()}
    write_zip(folder / "Flickr8k_text.zip", {"Flickr8k.token.txt": captions.encode()} | texts)
    return folder
