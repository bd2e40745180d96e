"""generate: draw one image per chosen validation image from its first caption, with the base or the tuned UNet."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory, sha256_file
from finetune.data import shards
from finetune.data.shard_cache import ShardCache, finished_key
from finetune.data.shards import INDEX, encode_png, read_rows, shard_name, spread, write_index, write_shard
from finetune.errors import InputError
from finetune.model import determinism, loading, sampling, tokenizer
from finetune.model.determinism import derive_seed
from finetune.model.loading import load_pipeline_once, model_sha256
from finetune.model.sampling import sample_images
from finetune.parallel import model_pool
from finetune.params import Generate, load_params
from finetune.stage import run_stage

SHARD_IMAGES = 250  # minutes of a GPU, which is what a kill costs at most
# what a shard's bytes come from
MAKERS = (__file__, loading.__file__, sampling.__file__, shards.__file__, determinism.__file__, tokenizer.__file__)
PACKAGES = ("diffusers", "numpy", "pillow", "tokenizers", "torch", "transformers")
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


@dataclass(frozen=True)
class Job:
    """What all shards of a model's images have in common."""

    base: Path
    tuned: Path | None
    sha256: str  # of the model
    images: int  # in all shards
    folder: Path
    params: Generate
    cache: ShardCache


def generate(
    images: Mapping[str, Path], base: Path, tuned: Path | None, generated: Path, params: Generate, cache: ShardCache
) -> None:
    """Fill `generated` with lossless images by `base`, or by `base` with the parts in `tuned` for its own.

    images: dataset -> its folder. Shards that an earlier run finished, before it was killed, are taken over.
    """
    rows = _plan(images, params)
    with atomic_directory(generated) as folder, model_pool() as ordered_map:
        job = Job(base, tuned, model_sha256(base, tuned), len(rows), folder, params, cache)
        of_shards = [rows[start : start + SHARD_IMAGES] for start in range(0, len(rows), SHARD_IMAGES)]
        keys = list(ordered_map(partial(draw_shard, job), of_shards))
        write_index(folder / INDEX, rows, SCHEMA)
    cache.keep_until_next(keys)


def draw_shard(job: Job, rows: list[dict[str, Any]]) -> str:
    """Draw the images of one shard, or take them over from an earlier run. Returns their key."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file = job.folder / rows[0]["shard"]
    drawn_by = job.params.model_dump(exclude={"images", "seed"})  # each row has its seed
    key = finished_key({"device": device, "model": job.sha256, "params": drawn_by, "rows": rows}, MAKERS, PACKAGES)
    if job.cache.take(key, file) is None:
        pictures = sample_images(
            load_pipeline_once(job.base, job.tuned, job.sha256, device),
            prompts=[row["prompt"] for row in rows],
            seeds=[row["seed"] for row in rows],
            num_inference_steps=job.params.num_inference_steps,
            guidance_scale=job.params.guidance_scale,
            batch_size=job.params.batch_size,
        )
        first = SHARD_IMAGES * int(file.stem)
        with tqdm(desc="generate", initial=first, total=job.images, unit="image", disable=None) as bar:
            write_shard(file, _members(rows, pictures, bar))
        job.cache.keep(key, file, {"sha256": sha256_file(file)})
    return key


def _members(
    rows: list[dict[str, Any]], pictures: Iterable[NDArray[np.uint8]], bar: "tqdm[NoReturn]"
) -> Iterator[tuple[str, bytes]]:
    for row, image in zip(rows, pictures, strict=True):
        yield row["member"], encode_png(Image.fromarray(image))
        bar.update()


def _plan(images: Mapping[str, Path], params: Generate) -> list[dict[str, Any]]:
    """What to draw: an even spread over all validation images, so that each dataset has its share."""
    rows = (row for folder in images.values() for row in read_rows(folder / INDEX))
    candidates = [row for row in rows if row["split"] == "validation"]
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
    images = paths.dataset_dirs(paths.IMAGES, params.datasets)
    cache = ShardCache.of_stage("generate", model)
    generate(images, paths.BASE, tuned, paths.GENERATED / model, params.generate, cache)


if __name__ == "__main__":
    run_stage(main)
