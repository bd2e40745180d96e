"""Small datasets and image sets, as the stages write them."""

import hashlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from finetune.artifacts import sha256_file
from finetune.data.shards import INDEX, encode_lossless, read_images, read_index, write_index, write_shard
from finetune.data.transforms import RESOLUTION, perceptual_hash
from stages.generate import SCHEMA as GENERATED_SCHEMA
from stages.preprocess import SCHEMA as IMAGES_SCHEMA
from stages.tokenize_captions import SCHEMA as TOKENS_SCHEMA


def shapes(seed: int, count: int) -> list[NDArray[np.uint8]]:
    """64x64 images of a colored rectangle on gray."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 64, 64, 3), 128, np.uint8)
    for image in images:
        x, y = rng.integers(4, 28, 2)
        image[y : y + 32, x : x + 32] = rng.integers(0, 256, 3)
    return list(images)


def write_image_set(folder: Path, dataset: str, splits: dict[str, list[NDArray[np.uint8]]]) -> None:
    """Write a dataset like preprocess-512, with one shard per split and two captions per image."""
    folder.mkdir(parents=True)
    rows = []
    for split, images in splits.items():
        shard = folder / f"{split}-00000.tar"
        names = [f"{dataset}-{split}-{i}" for i in range(len(images))]
        contents = (encode_lossless(Image.fromarray(pixels)) for pixels in images)
        write_shard(shard, zip((f"{name}.webp" for name in names), contents, strict=True))
        common = {"dataset": dataset, "split": split, "shard": shard.name, "shard_sha256": sha256_file(shard)}
        for name, pixels in zip(names, images, strict=True):
            row = common | {"id": name, "member": f"{name}.webp", "width": pixels.shape[1], "height": pixels.shape[0]}
            row |= {"sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
            row |= {"perceptual_hash": perceptual_hash(Image.fromarray(pixels).resize((RESOLUTION, RESOLUTION)))}
            rows.append(row | {"captions": [f" a star called {name}\n", "another caption"]})
    write_index(folder / INDEX, rows, IMAGES_SCHEMA)


def folders(images: Path) -> dict[str, Path]:
    return {dataset: images / dataset for dataset in ("coco", "flickr8k")}


def write_token_table(tokens: Path, images: dict[str, Path], excluded: Container[str] = ()) -> None:
    """Write the table of `tokenize`; the images with the ids in `excluded` are not trained on."""
    tokens.mkdir(parents=True)
    rows = [
        {key: row[key] for key in ("dataset", "id", "split")} | {"first": 0, "captions": int(row["id"] not in excluded)}
        for folder in images.values()
        for row in read_index(folder)
    ]
    write_index(tokens / "images.parquet", rows, TOKENS_SCHEMA)


def write_generated(folder: Path, dataset: Path, images: list[NDArray[np.uint8]], seed: int = 0) -> None:
    """Write one image per validation image of `dataset`, like the stage generate."""
    validation = [
        row for name in ("coco", "flickr8k") for row in read_index(dataset / name) if row["split"] == "validation"
    ]
    rows = [
        {"id": row["id"], "dataset": row["dataset"], "prompt": row["captions"][0].strip(), "seed": seed}
        for row in validation
    ]
    write_generated_rows(folder, rows, images)


def write_generated_rows(
    folder: Path, rows: list[dict[str, Any]], images: list[NDArray[np.uint8]], schema: pa.Schema = GENERATED_SCHEMA
) -> None:
    """Write images in one shard, like generate and reconstruct."""
    folder.mkdir(parents=True)
    rows = [row | {"shard": "00000.tar", "member": f"{row['dataset']}-{row['id']}.webp"} for row in rows]
    contents = (encode_lossless(Image.fromarray(pixels)) for pixels in images)
    write_shard(folder / "00000.tar", zip((row["member"] for row in rows), contents, strict=True))
    write_index(folder / INDEX, rows, schema)


def noise(seed: int, count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8))


def write_generated_sets(generated: Path, images: Path, base: list[np.ndarray], tuned: list[np.ndarray]) -> Path:
    """Write the images of both models, and slightly darker validation images as reconstructions."""
    darker = [
        pixels - pixels // 16
        for dataset in ("coco", "flickr8k")
        for row, pixels in read_images(images / dataset, read_index(images / dataset))
        if row["split"] == "validation"
    ]
    write_generated(generated / "reconstructed", images, darker)
    write_generated(generated / "base", images, base)
    write_generated(generated / "tuned", images, tuned)
    return generated
