"""What a picture costs each data stage, for drawn scenes and for photographs: seconds of one core, and bytes.

`python -m bench.stage_costs PHOTOS` runs the real stages; PHOTOS holds a little of COCO in its original form, as for
presets/photos.yaml. The planner multiplies what this writes to bench/results/stage_costs.json.
"""

import argparse
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from cleanfid.resize import make_resizer
from PIL import Image

from bench.data_stages import PREPROCESS, Measured, run_data_stages, seconds_of
from bench.harness import write_result
from finetune.data.shards import INDEX, encode_png, read_images, read_index
from finetune.data.transforms import encode_jpeg
from finetune.datasets.scene_archives import draw_archive

ARCHIVES = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
SCENES = "scenes:coco?train=100&validation=50"
INCEPTION = 299  # pixels, the input of FID's network
PACKAGES = ("diffusers", "numpy", "pillow", "tokenizers", "torch")
ROUNDS = 3  # of which the median counts


def measure(raw: Path) -> dict[str, Any]:
    rounds = []
    for _ in range(ROUNDS):
        with TemporaryDirectory() as folder:
            measured = run_data_stages(raw, Path(folder))
            rounds.append(_per_image(measured, Path(folder) / "images" / "coco"))
    seconds = {
        name: round(median(each["seconds"][name] for each in rounds), 6) for name in sorted(rounds[0]["seconds"])
    }
    return {"bytes": rounds[-1]["bytes"], "images": measured.images, "seconds": seconds}


def _per_image(measured: Measured, images: Path) -> dict[str, dict[str, float]]:
    count = sum(measured.images.values())
    rows = read_index(images)
    resize = make_resizer("PIL", False, "bicubic", (INCEPTION, INCEPTION))
    pictures = [pixels for _, pixels in read_images(images, rows)]
    others = {
        "read": seconds_of(lambda: [pixels.shape for _, pixels in read_images(images, rows)]),
        "jpeg": seconds_of(
            lambda: [encode_jpeg(Image.fromarray(pixels), PREPROCESS.jpeg_quality) for pixels in pictures]
        ),
        "png": seconds_of(lambda: [encode_png(Image.fromarray(pixels)) for pixels in pictures]),
        "resize": seconds_of(lambda: [resize(pixels) for pixels in pictures]),
    }
    shards = {split: sum(file.stat().st_size for file in images.glob(f"{split}-*.tar")) for split in measured.images}
    sizes: dict[str, float] = {split: round(size / measured.images[split]) for split, size in shards.items()}
    sizes["index"] = round((images / INDEX).stat().st_size / count)
    sizes["tokens"] = round(measured.bytes["tokenize"] / count)
    seconds = {name: spent / count for name, spent in (measured.seconds | others).items()}
    return {"seconds": seconds | _by_split(seconds, measured.images["validation"] / count), "bytes": sizes}


def _by_split(seconds: dict[str, float], held_out: float) -> dict[str, float]:
    """Validation images are written as PNGs, training images as JPEGs; all else is the same. held_out: their share."""
    both, more = seconds["preprocess-512"], seconds["png"] - seconds["jpeg"]
    return {"preprocess train": both - held_out * more, "preprocess validation": both + (1 - held_out) * more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    photos = parser.parse_args().photos
    os.environ["WORKERS"] = "1"  # a core's seconds are counted, not those of other processes
    with TemporaryDirectory() as folder:
        for name in ARCHIVES:
            draw_archive(SCENES, name, Path(folder) / name)
        scenes = measure(Path(folder))
    write_result("stage_costs", PACKAGES, {"photos": measure(photos / "coco"), "scenes": scenes})


if __name__ == "__main__":
    main()
