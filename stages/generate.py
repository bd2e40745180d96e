"""generate: draw one picture per chosen validation image from its first caption, with the base or the tuned UNet."""

import argparse
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from tqdm import tqdm

from finetune import paths
from finetune.errors import InputError
from finetune.models import load_pipeline
from finetune.outputs import whole_directory
from finetune.params import Generate, load_params
from finetune.sampling import sample_images
from finetune.seeding import derive_seed
from finetune.shards import INDEX, encode_png, read_batches, shard_name, spread, write_index, write_shard
from finetune.stage import run_stage

SHARD_IMAGES = 1000
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("shard", pa.string()),
        ("member", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
    ]
)


def generate(images: Mapping[str, Path], base: Path, tuned: Path | None, generated: Path, params: Generate) -> None:
    """Fill `generated` with lossless pictures by `base`, or by `base` with the parts in `tuned` for its own.

    images: data set -> its folder.
    """
    rows = _plan(images, params)
    pipeline = load_pipeline(base, tuned)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pictures = sample_images(
        pipeline,
        prompts=[row["prompt"] for row in rows],
        seeds=[row["seed"] for row in rows],
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        batch_size=params.batch_size,
    )
    members = (
        (row["member"], encode_png(Image.fromarray(picture)))
        for row, picture in tqdm(zip(rows, pictures, strict=True), "generate", len(rows), unit="image", disable=None)
    )
    with whole_directory(generated) as folder:
        for number in range(-(-len(rows) // SHARD_IMAGES)):
            write_shard(folder / shard_name(number), islice(members, SHARD_IMAGES))
        write_index(folder / INDEX, rows, SCHEMA)


def _plan(images: Mapping[str, Path], params: Generate) -> list[dict[str, Any]]:
    """What to draw: an even spread over all validation images, so that each data set has its share."""
    candidates = [
        row
        for folder in images.values()
        for batch in read_batches(folder / INDEX)
        for row in batch
        if row["split"] == "validation"
    ]
    if params.images > len(candidates):
        raise InputError(
            f"params.yaml: generate.images is {params.images}, more than the {len(candidates)} validation images; "
            "lower it"
        )
    chosen = spread(candidates, params.images)
    return [
        {
            "id": row["id"],
            "dataset": row["dataset"],
            "shard": shard_name(i // SHARD_IMAGES),
            "member": f"{row['dataset']}-{row['id']}.png",
            "prompt": " ".join(row["captions"][0].split()),
            "seed": derive_seed(params.seed, row["id"]),
        }
        for i, row in enumerate(chosen)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["base", "tuned"])
    model = parser.parse_args().model
    params = load_params()
    tuned = paths.TUNED / params.export.weights if model == "tuned" else None
    images = paths.of_datasets(paths.IMAGES, params.datasets)
    generate(images, paths.BASE, tuned, paths.GENERATED / model, params.generate)


if __name__ == "__main__":
    run_stage(main)
