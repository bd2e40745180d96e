"""Measure what one image costs each data stage, for photos and for synthetic scenes: CPU seconds and bytes.

`python -m bench.stage_costs PHOTOS` runs the real stages; PHOTOS/coco holds a small part of COCO in its original form,
as for presets/photos.yaml. The planner reads the result from finetune/planning/stage_costs.json.
"""

import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from PIL import Image

from bench.harness import cpu_seconds, folder_bytes, make_parser, write_result
from finetune.data.shard_cache import ShardCache
from finetune.data.shards import INDEX, encode_lossless, read_images, read_index
from finetune.data.transforms import encode_jpeg
from finetune.datasets.scene_archives import draw_archive
from finetune.params import PreprocessDataset, Tokenize
from finetune.planning.costs import MEASURED
from stages.preprocess import preprocess
from stages.tokenize_captions import tokenize

TOKENIZER = Path("sample/base/tokenizer")
PREPROCESS = PreprocessDataset(format="coco", crop="center", min_side=128, jpeg_quality=95, shards=2, max_dropped=1.0)
TOKENIZE = Tokenize(max_captions=5, min_words=2, near_duplicate_bits=None, max_dropped=1.0)
ARCHIVES = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
SCENES = "scenes:coco?train=100&validation=50"
INCEPTION = 299  # pixels, the input size of FID's network
PACKAGES = ("diffusers", "numpy", "pillow", "tokenizers", "torch")
ROUNDS = 3


def measure(raw: Path) -> dict[str, Any]:
    """Return bytes, image counts per split, and the median seconds over ROUNDS. raw: COCO's archives."""
    rounds = []
    for _ in range(ROUNDS):
        with TemporaryDirectory() as folder:
            rounds.append(_measure_once(raw, Path(folder)))
    seconds = {
        name: round(median(each["seconds"][name] for each in rounds), 6) for name in sorted(rounds[0]["seconds"])
    }
    return rounds[-1] | {"seconds": seconds}


def _measure_once(raw: Path, folder: Path) -> dict[str, Any]:
    """Run preprocess-512 and tokenize. The planner derives the latents' bytes and time from their shape and FLOPs."""
    images, tokens, metrics = folder / "images" / "coco", folder / "tokens", folder / "metrics.json"
    cache = ShardCache(str(folder / "cache"))
    spent = {
        "preprocess-512": cpu_seconds(lambda: preprocess("coco", raw, images, metrics, PREPROCESS, cache)),
        "tokenize": cpu_seconds(lambda: tokenize({"coco": images}, TOKENIZER, tokens, metrics, TOKENIZE)),
    }
    rows = read_index(images)
    spent["read"] = cpu_seconds(lambda: [pixels.shape for _, pixels in read_images(images, rows)])
    spent |= _image_seconds([pixels for _, pixels in read_images(images, rows)])
    splits = [row["split"] for row in rows]
    counts = {split: splits.count(split) for split in ("train", "validation")}
    shards = {split: sum(file.stat().st_size for file in images.glob(f"{split}-*.tar")) for split in counts}
    sizes: dict[str, float] = {split: round(size / counts[split]) for split, size in shards.items()}
    sizes["index"] = round((images / INDEX).stat().st_size / len(rows))
    sizes["tokens"] = round(folder_bytes(tokens) / len(rows))
    seconds = {name: each / len(rows) for name, each in spent.items()}
    seconds |= _by_split(seconds, counts["validation"] / len(rows))
    return {"bytes": sizes, "images": counts, "seconds": seconds}


def _image_seconds(images: list[NDArray[np.uint8]]) -> dict[str, float]:
    resize = make_resizer("PIL", False, "bicubic", (INCEPTION, INCEPTION))
    return {
        "jpeg": cpu_seconds(lambda: [encode_jpeg(Image.fromarray(each), PREPROCESS.jpeg_quality) for each in images]),
        "lossless": cpu_seconds(lambda: [encode_lossless(Image.fromarray(each)) for each in images]),
        "resize": cpu_seconds(lambda: [resize(each) for each in images]),
    }


def _by_split(seconds: dict[str, float], validation: float) -> dict[str, float]:
    """Split preprocess-512's time: validation images are lossless, training images JPEGs. validation: their share."""
    mean, more = seconds["preprocess-512"], seconds["lossless"] - seconds["jpeg"]
    return {
        "preprocess train": mean - validation * more,
        "preprocess validation": mean + (1 - validation) * more,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path)
    photos = parser.parse_args().photos
    os.environ["WORKERS"] = "1"  # CPU time is counted for this process only
    with TemporaryDirectory() as folder:
        for name in ARCHIVES:
            draw_archive(SCENES, name, Path(folder) / name)
        scenes = measure(Path(folder))
    write_result(MEASURED.stem, PACKAGES, {"photos": measure(photos / "coco"), "scenes": scenes}, MEASURED.parent)


if __name__ == "__main__":
    main()
