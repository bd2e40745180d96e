"""The synthetic world written as genuine COCO 2017 and Flickr8k archives: the sample goes through the real parsers.

A location `scenes:coco?train=144&validation=48` names how many scenes each split has; the same location gives
the same bytes everywhere. Training scenes are of the new world, validation scenes of the unseen one.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

import numpy as np
from numpy.typing import NDArray

from finetune.datasets.outlines import outlines
from finetune.datasets.scenes.canvas import SIZE
from finetune.datasets.scenes.drawing import draw, masks
from finetune.datasets.scenes.world import ANIMALS, CATEGORIES, PEOPLE, Scene, World, captions, make_scene
from finetune.errors import InputError

Split = Literal["train", "validation"]

# Far from each other and from the seeds that the sample's base model is trained and measured on (sample/). Multiples of
# the number of combinations, so that a dataset shows each of them before it shows one again.
FIRST_SEED: dict[tuple[str, Split], int] = {
    ("coco", "train"): 2_080_000,
    ("coco", "validation"): 4_000_000,
    ("flickr8k", "train"): 6_240_000,
    ("flickr8k", "validation"): 8_000_000,
}
WORLDS: dict[Split, World] = {"train": "new", "validation": "unseen"}
MOST = 1_000_000  # scenes per split
SCENES = "scenes:"
JPEG_QUALITY = 90
HALVES: dict[str, Split] = {"train2017": "train", "val2017": "validation"}
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


def scene_jpeg(seed: int) -> bytes:
    """JPEG."""
    file = io.BytesIO()
    draw(_scene(seed)).save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return file.getvalue()


def draw_archive(location: str, name: str, path: Path, image: Callable[[int], bytes] = scene_jpeg) -> None:
    """Write the archive `name` of the dataset that `location` describes, with the `image` of each seed.

    Raises InputError for a location or a name that stands for nothing.
    """
    dataset, seeds = scene_seeds(location)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, content in _members(dataset, name, seeds, image):
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, also where the archive is not written on one
            info.external_attr = (0o40755 if member.endswith("/") else 0o100644) << 16
            archive.writestr(info, content)


def scene_seeds(location: str) -> tuple[str, Seeds]:
    """The dataset and, by split, one seed per scene.

    Raises InputError for a location that stands for nothing.
    """
    path, _, query = location.removeprefix(SCENES).partition("?")
    counts = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if path not in ("coco", "flickr8k") or counts.keys() != {"train", "validation"}:
        raise InputError(f"{location}: write scenes:coco?train=N&validation=N or scenes:flickr8k?train=N&validation=N")
    seeds: Seeds = {}
    for (dataset, split), first in FIRST_SEED.items():
        if dataset == path:
            if not re.fullmatch("[0-9]{1,9}", counts[split]) or not 1 <= int(counts[split]) <= MOST:
                raise InputError(f"{location}: {split} is {counts[split]!r}; give a count from 1 to {MOST}")
            seeds[split] = range(first, first + int(counts[split]))
    return path, seeds


def _members(dataset: str, name: str, seeds: Seeds, image: Callable[[int], bytes]) -> Iterator[Member]:
    match dataset, name:
        case "coco", "train2017.zip" | "val2017.zip":
            half = name.removesuffix(".zip")
            yield f"{half}/", b""
            for seed in seeds[HALVES[half]]:
                yield f"{half}/{_coco_name(seed)}", image(seed)
        case "coco", "annotations_trainval2017.zip":
            for half, split in HALVES.items():
                yield f"annotations/captions_{half}.json", _json(_coco_captions(seeds[split]))
                yield f"annotations/instances_{half}.json", _json(_coco_instances(seeds[split]))
        case "flickr8k", "Flickr8k_Dataset.zip":
            yield "Flicker8k_Dataset/", b""  # spelled as in the original
            for seed in (*seeds["train"], *seeds["validation"]):
                yield f"Flicker8k_Dataset/{_flickr_name(seed)}", image(seed)
        case "flickr8k", "Flickr8k_text.zip":
            yield from _flickr_texts(seeds)
        case _:
            raise InputError(f"fetch.{dataset}: no archive of scenes is called {name}; see presets/sample.yaml")


def _scene(seed: int) -> Scene:
    """The scene of a seed, which lies in the range of its split."""
    split = max((first, split) for (_, split), first in FIRST_SEED.items() if first <= seed)[1]
    return make_scene(seed, WORLDS[split])


def _captions(seed: int) -> list[str]:
    """All wordings; which one comes first changes from scene to scene."""
    wordings = captions(_scene(seed).combination)
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
    parts = [(seed, name, mask) for seed in seeds for name, mask in masks(_scene(seed)).items()]
    categories = [{"supercategory": _supercategory(n), "id": i, "name": n} for i, n in enumerate(CATEGORIES, 1)]
    return {
        **COCO_FRAME,
        "images": _coco_images(seeds),
        "annotations": [
            {"id": i, "image_id": seed, **_instance(name, mask)} for i, (seed, name, mask) in enumerate(parts, 1)
        ],
        "categories": categories,
    }


def _supercategory(name: str) -> str:
    return "animal" if name in ANIMALS else "person" if name in PEOPLE else "clothing"


def _instance(name: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Outlines, box `[x, y, width, height]` and area, in pixels, of what is visible."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": CATEGORIES.index(name) + 1,
        "segmentation": [[coordinate for corner in outline for coordinate in corner] for outline in outlines(mask)],
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": float(mask.sum()),
        "iscrowd": 0,
    }


def _flickr_name(seed: int) -> str:
    return f"{seed}_{hashlib.sha256(str(seed).encode()).hexdigest()[:10]}.jpg"


def _flickr_texts(seeds: Seeds) -> Iterator[Member]:
    train, held_out = seeds["train"], seeds["validation"]
    middle = len(held_out) // 2
    texts = [(seed, number, text) for seed in (*train, *held_out) for number, text in enumerate(_captions(seed))]
    yield "Flickr8k.token.txt", _lines(f"{_flickr_name(seed)}#{number}\t{text}" for seed, number, text in texts)
    yield "Flickr_8k.trainImages.txt", _lines(map(_flickr_name, train))
    yield "Flickr_8k.devImages.txt", _lines(map(_flickr_name, held_out[:middle]))
    yield "Flickr_8k.testImages.txt", _lines(map(_flickr_name, held_out[middle:]))


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
