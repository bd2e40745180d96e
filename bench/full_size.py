"""What the data stages but latents take at the size of the reference run, at a third and at a tenth of it.

    python -m bench.full_size FOLDER [--images 126000]

The pictures are scenes of 256x256 with noise of their own, in genuine COCO and Flickr8k archives below FOLDER; the
stages' real commands then run there, one after the other. Needs about 20 GB; FOLDER may be removed afterwards.
"""

import argparse
import io
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from bench.data_stages import bytes_below
from bench.harness import ROOT, measured, write_result
from finetune import paths
from finetune.artifacts import sha256_file
from finetune.datasets.scene_archives import draw_archive
from finetune.datasets.scenes import draw, make_scene

SHARES = {"coco": {"train": 118_287, "validation": 5_000}, "flickr8k": {"train": 6_091, "validation": 2_000}}
PARTS = {"tenth": 10, "third": 3, "full": 1}
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


@cache
def _drawn(seed: int) -> NDArray[np.int16]:
    return np.asarray(draw(make_scene(seed, "striped")).resize((SIDE, SIDE)), np.int16)


def picture(seed: int) -> bytes:
    """One of 200 scenes under blocks of noise that no other picture has, so that none is another's near duplicate."""
    noise = np.random.default_rng(seed).integers(-64, 64, (16, 16, 3), np.int16)
    blocks = noise.repeat(SIDE // 16, axis=0).repeat(SIDE // 16, axis=1)
    file = io.BytesIO()
    Image.fromarray((_drawn(seed % 200) + blocks).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_archives(folder: Path, images: int, params: dict[str, Any]) -> None:
    """Archives of `images` pictures in all, whose places and checksums go to params["fetch"]."""
    total = sum(sum(shares.values()) for shares in SHARES.values())
    folder.mkdir(parents=True)
    jobs = []
    for dataset, shares in SHARES.items():
        counts = "&".join(f"{split}={max(1, round(share * images / total))}" for split, share in shares.items())
        jobs += [(f"scenes:{dataset}?{counts}", dataset, name) for name in params["fetch"][dataset]]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write_archive, folder), jobs))
    for _, dataset, name in jobs:
        path = folder / name
        checksum = f"sha256:{sha256_file(path)}"
        params["fetch"][dataset][name] = {"location": str(path), "checksum": checksum, "bytes": path.stat().st_size}


def _write_archive(folder: Path, job: tuple[str, str, str]) -> None:
    location, _, name = job
    draw_archive(location, name, folder / name, picture)


def run(folder: Path, images: int) -> dict[str, dict[str, float]]:
    """Every stage's seconds, memory and bytes of output in a new `folder`."""
    folder.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "presets" / "rtx3090.yaml").read_text())
    sample = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text())
    params["fetch"]["base"] = sample["fetch"]["base"] | {"location": str(ROOT / "sample" / "base")}
    write_archives(folder.absolute() / "archives", images, params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    report = {}
    for name, (module, output) in STAGES.items():
        report[name] = measured([sys.executable, "-m", *module], folder)
        report[name]["output_mb"] = round(bytes_below(folder / output) / 1e6, 1)
        print(name, report[name], flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=126_000)
    arguments = parser.parse_args()
    images = {name: arguments.images // part for name, part in PARTS.items()}
    runs = {name: run(arguments.folder / name, count) for name, count in images.items()}
    growth = {name: round(runs["full"][name]["memory_mib"] / runs["tenth"][name]["memory_mib"], 3) for name in STAGES}
    result = {"images": images, "runs": runs, "memory_full_over_tenth": growth}
    write_result("full_size", ["imagehash", "numpy", "pillow", "pyarrow", "torch", "transformers"], result)


if __name__ == "__main__":
    main()
