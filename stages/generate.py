"""generate: generate one image per validation caption, with the base or the fine-tuned model."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory
from finetune.data.shard_cache import Metadata, ShardCache, map_shards
from finetune.data.shards import INDEX, encode_lossless, read_rows, shard_name, spread, write_index, write_shard
from finetune.errors import InputError
from finetune.model.determinism import default_device, derive_seed
from finetune.model.loading import load_pipeline_cached, model_fingerprint
from finetune.model.sampling import sample_images
from finetune.parallel import model_pool
from finetune.params import Generate, load_params
from finetune.stage import run_stage

SHARD_IMAGES = 250  # minutes of GPU time, the most that being killed loses
LIBRARIES = ("diffusers", "numpy", "pillow", "tokenizers", "torch", "transformers")  # their versions affect pixels
Row = dict[str, Any]
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
class ImageMaker:
    """Generates the images of one shard, given as index rows."""

    base: Path
    tuned: Path | None
    fingerprint: str  # of the model
    total: int  # images in all shards
    params: Generate

    def name(self, rows: list[Row]) -> str:
        return str(rows[0]["shard"])

    def inputs(self, rows: list[Row]) -> dict[str, Any]:
        sampling = self.params.model_dump(exclude={"images", "seed"})  # each row has its own seed
        return {"device": default_device().type, "model": self.fingerprint, "params": sampling, "rows": rows}

    def write(self, rows: list[Row], path: Path) -> Metadata:
        generated = sample_images(
            load_pipeline_cached(self.base, self.tuned, self.fingerprint, default_device().type),
            prompts=[row["prompt"] for row in rows],
            seeds=[row["seed"] for row in rows],
            num_inference_steps=self.params.num_inference_steps,
            guidance_scale=self.params.guidance_scale,
            batch_size=self.params.batch_size,
        )
        first = SHARD_IMAGES * int(path.stem)
        with tqdm(desc="generate", initial=first, total=self.total, unit="image", disable=None) as bar:
            write_shard(path, _members(rows, generated, bar))
        return {}


def generate(
    images: Mapping[str, Path], base: Path, tuned: Path | None, out: Path, params: Generate, cache: ShardCache
) -> None:
    """Write lossless images by `base`, with the parts in `tuned` in place of its own. images: dataset -> folder."""
    rows = _plan(images, params)
    shards = [rows[start : start + SHARD_IMAGES] for start in range(0, len(rows), SHARD_IMAGES)]
    maker = ImageMaker(base, tuned, model_fingerprint(base, tuned), len(rows), params)
    with atomic_directory(out) as folder, model_pool() as ordered_map:
        for _ in map_shards(maker, shards, folder, cache, ordered_map, keep_unfinished=True):
            pass
        write_index(folder / INDEX, rows, SCHEMA)


def _members(
    rows: list[Row], images: Iterable[NDArray[np.uint8]], bar: "tqdm[NoReturn]"
) -> Iterator[tuple[str, bytes]]:
    for row, image in zip(rows, images, strict=True):
        yield row["member"], encode_lossless(Image.fromarray(image))
        bar.update()


def _plan(images: Mapping[str, Path], params: Generate) -> list[Row]:
    """Choose validation images spread evenly over all datasets, and return the index of the images to generate."""
    rows = (row for folder in images.values() for row in read_rows(folder / INDEX))
    candidates = [row for row in rows if row["split"] == "validation"]
    if params.images > len(candidates):
        raise InputError(
            f"params.yaml: generate.images ({params.images}) exceeds the {len(candidates)} validation images; lower it"
        )
    chosen = spread(candidates, params.images)
    return [
        {
            "id": row["id"],
            "dataset": row["dataset"],
            "shard": shard_name(i // SHARD_IMAGES),
            "member": f"{row['dataset']}-{row['id']}.webp",
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
    cache = ShardCache.for_stage("generate", model, LIBRARIES)
    generate(images, paths.BASE, tuned, paths.GENERATED / model, params.generate, cache)


if __name__ == "__main__":
    run_stage(main)
