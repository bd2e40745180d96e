"""Write synthetic scenes as COCO 2017 and Flickr8k archives, so that the sample uses the real parsers.

A location such as `scenes:coco?train=144&validation=48` sets the number of scenes per split. The same location gives
the same bytes on every machine.
"""

import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

from finetune.datasets.scenes import CATEGORIES, SIZE, Scene, captions, draw, draw_mask, make_scene, outline
from finetune.errors import InputError

Split = Literal["train", "validation"]

# Ranges that overlap neither each other nor the seeds of the sample's base model (sample/).
FIRST_SEED: dict[tuple[str, Split], int] = {
    ("coco", "train"): 2_000_000,
    ("coco", "validation"): 3_000_000,
    ("flickr8k", "train"): 4_000_000,
    ("flickr8k", "validation"): 5_000_000,
}
MAX_SCENES = 1_000_000  # per split
SCENES = "scenes:"
JPEG_QUALITY = 95
COCO_SPLITS: dict[str, Split] = {"train2017": "train", "val2017": "validation"}
COCO_FRAME = {
    "info": {
        "description": "Drawn scenes in the form of the COCO 2017 Dataset",
        "url": "",
        "version": "1.0",
        "year": 2017,
        "contributor": "",
        "date_created": "2017/09/01",
    },
    "licenses": [
        {"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0 Universal"},
    ],
}

Seeds = dict[Split, range]
Member = tuple[str, bytes]


def scene_image(seed: int) -> bytes:
    """Return the seed's scene as JPEG."""
    file = io.BytesIO()
    draw(_scene(seed)).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return file.getvalue()


def draw_archive(location: str, name: str, path: Path, image: Callable[[int], bytes] = scene_image) -> None:
    """Write the archive `name` of the dataset at `location`. image: returns a seed's JPEG.

    Raises InputError for an invalid location or name.
    """
    dataset, seeds = scene_seeds(location)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, content in _members(dataset, name, seeds, image):
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, for equal bytes on every system
            info.external_attr = (0o40755 if member.endswith("/") else 0o100644) << 16
            archive.writestr(info, content)


def scene_seeds(location: str) -> tuple[str, Seeds]:
    """Return the dataset and the seeds of each split's scenes. Raises InputError for an invalid location."""
    path, _, query = location.removeprefix(SCENES).partition("?")
    counts = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if path not in ("coco", "flickr8k") or counts.keys() != {"train", "validation"}:
        raise InputError(f"{location}: write scenes:coco?train=N&validation=N or scenes:flickr8k?train=N&validation=N")
    seeds: Seeds = {}
    for (dataset, split), first in FIRST_SEED.items():
        if dataset == path:
            if not re.fullmatch("[0-9]{1,9}", counts[split]) or not 1 <= int(counts[split]) <= MAX_SCENES:
                raise InputError(f"{location}: {split} is {counts[split]!r}; give a count from 1 to {MAX_SCENES}")
            seeds[split] = range(first, first + int(counts[split]))
    return path, seeds


def _members(dataset: str, name: str, seeds: Seeds, image: Callable[[int], bytes]) -> Iterator[Member]:
    match dataset, name:
        case "coco", "train2017.zip" | "val2017.zip":
            folder = name.removesuffix(".zip")
            yield f"{folder}/", b""
            for seed in seeds[COCO_SPLITS[folder]]:
                yield f"{folder}/{_coco_name(seed)}", image(seed)
        case "coco", "annotations_trainval2017.zip":
            for part, split in COCO_SPLITS.items():
                yield f"annotations/captions_{part}.json", _json(_coco_captions(seeds[split]))
                yield f"annotations/instances_{part}.json", _json(_coco_instances(seeds[split]))
        case "flickr8k", "Flickr8k_Dataset.zip":
            yield "Flicker8k_Dataset/", b""  # spelled as in the original
            for seed in (*seeds["train"], *seeds["validation"]):
                yield f"Flicker8k_Dataset/{_flickr_name(seed)}", image(seed)
        case "flickr8k", "Flickr8k_text.zip":
            yield from _flickr_texts(seeds)
        case _:
            raise InputError(f"fetch.{dataset}: the synthetic dataset has no archive {name}; see presets/sample.yaml")


def _scene(seed: int) -> Scene:
    return make_scene(seed, "striped")


def _captions(seed: int) -> list[str]:
    """Return all captions, rotated by seed so that the first one varies."""
    wordings = captions(_scene(seed))
    first = seed % len(wordings)
    return wordings[first:] + wordings[:first]


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _coco_name(seed: int) -> str:
    return f"{seed:012d}.jpg"


def _coco_images(seeds: range) -> list[dict[str, Any]]:
    return [
        {
            "license": 1,
            "file_name": _coco_name(seed),
            "coco_url": "",
            "height": SIZE,
            "width": SIZE,
            "date_captured": "2017-09-01 00:00:00",
            "flickr_url": "",
            "id": seed,
        }
        for seed in seeds
    ]


def _coco_captions(seeds: range) -> dict[str, Any]:
    texts = [(seed, text) for seed in seeds for text in _captions(seed)]
    annotations = [{"image_id": seed, "id": i, "caption": text} for i, (seed, text) in enumerate(texts, 1)]
    return {**COCO_FRAME, "images": _coco_images(seeds), "annotations": annotations}


def _coco_instances(seeds: range) -> dict[str, Any]:
    objects = [(seed, dataclasses.replace(_scene(seed), centers=(c,))) for seed in seeds for c in _scene(seed).centers]
    return {
        **COCO_FRAME,
        "images": _coco_images(seeds),
        "annotations": [{"id": i, "image_id": seed, **_instance(thing)} for i, (seed, thing) in enumerate(objects, 1)],
        "categories": [{"supercategory": "shape", "id": i, "name": shape} for i, shape in enumerate(CATEGORIES, 1)],
    }


def _instance(thing: Scene) -> dict[str, Any]:
    """Return outline, box `[x, y, width, height]` and area, in pixels, of a scene with one object."""
    [center] = thing.centers
    polygon = [(_clip(x), _clip(y)) for x, y in outline(thing.shape, center, thing.radius)]
    xs, ys = zip(*polygon, strict=True)
    return {
        "category_id": CATEGORIES.index(thing.shape) + 1,
        "segmentation": [[coordinate for point in polygon for coordinate in point]],
        "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": float(draw_mask(thing).histogram()[255]),
        "iscrowd": 0,
    }


def _clip(coordinate: float) -> float:
    return round(min(max(coordinate, 0.0), float(SIZE)), 2)


def _flickr_name(seed: int) -> str:
    return f"{seed}_{hashlib.sha256(str(seed).encode()).hexdigest()[:10]}.jpg"


def _flickr_texts(seeds: Seeds) -> Iterator[Member]:
    train, validation = seeds["train"], seeds["validation"]
    middle = len(validation) // 2
    texts = [(seed, number, text) for seed in (*train, *validation) for number, text in enumerate(_captions(seed))]
    yield "Flickr8k.token.txt", _lines(f"{_flickr_name(seed)}#{number}\t{text}" for seed, number, text in texts)
    yield "Flickr_8k.trainImages.txt", _lines(map(_flickr_name, train))
    yield "Flickr_8k.devImages.txt", _lines(map(_flickr_name, validation[:middle]))
    yield "Flickr_8k.testImages.txt", _lines(map(_flickr_name, validation[middle:]))


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
