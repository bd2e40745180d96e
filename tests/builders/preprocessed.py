"""Run preprocess-512 on small COCO archives and read its outputs."""

import json
import shutil
from pathlib import Path
from typing import Any

from finetune.data.shard_cache import ShardCache
from finetune.data.shards import read_index
from finetune.params import PreprocessDataset
from stages.preprocess import preprocess
from tests.builders.archives import image_bytes, write_coco, write_zip

PARAMS = PreprocessDataset(format="coco", crop="center", min_side=16, jpeg_quality=95, shards=3, max_dropped=0.0)
TOLERANT = PARAMS.model_copy(update={"max_dropped": 1.0})
TRAIN, VALIDATION = range(1, 9), range(11, 14)


def write_archives(folder: Path) -> Path:
    return write_coco(folder, {i: image_bytes(i) for i in TRAIN}, {i: image_bytes(i) for i in VALIDATION})


def replace_train(coco: Path, changed: dict[int, bytes]) -> None:
    """Replace the content of some training images, not their captions."""
    images = {i: image_bytes(i) for i in TRAIN} | changed
    write_zip(coco / "train2017.zip", {f"train2017/{i:012d}.jpg": content for i, content in images.items()})


def run(raw: Path, params: PreprocessDataset = PARAMS, dataset: str = "coco") -> tuple[Path, list[dict[str, Any]]]:
    images = raw.parent / "images"
    preprocess(dataset, raw, images, raw.parent / "metrics.json", params, ShardCache(str(raw.parent / "cache")))
    return images, read_index(images)


def reset(raw: Path) -> None:
    """Delete outputs and cached shards."""
    for name in ("images", "cache"):
        shutil.rmtree(raw.parent / name, ignore_errors=True)


def read_dropped(images: Path) -> Any:
    return json.loads((images / "dropped.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shard_of(rows: list[dict[str, Any]], number: int) -> str:
    (shard,) = {row["shard"] for row in rows if row["id"] == f"{number:012d}"}
    return shard
