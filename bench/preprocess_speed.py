"""preprocess-512 in one process against a bare Pillow loop, and against img2dataset's resizer, on the same photos.

    python -m bench.preprocess_speed PHOTOS

The peer is measured where it is installed, in an environment beside ours, for it would change our packages:
`pip install img2dataset==1.47.0 opencv-python-headless albumentations`. By default it enlarges with Lanczos' filter,
slower than our bicubic one, hence a second take with OpenCV's bicubic; it shrinks by areas.
"""

import argparse
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageOps

from bench.harness import interleaved, ratio, write_result
from bench.photographs import MIN_SIDE, photos
from finetune.data.shard_cache import ShardCache
from finetune.data.transforms import RESOLUTION, crop_box
from finetune.params import PreprocessDataset
from finetune.process import keep_freed_memory
from stages.preprocess import preprocess

PARAMS = PreprocessDataset(
    format="imagefolder", crop="center", min_side=MIN_SIDE, jpeg_quality=95, shards=1, max_dropped=0.0
)
ROUNDS = 5
PEER = "img2dataset"


def write_archive(path: Path, pictures: list[bytes]) -> None:
    names = [f"{i:06d}.jpg" for i in range(len(pictures))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(names, pictures, strict=True):
            archive.writestr(name, content)
        archive.writestr("metadata.jsonl", "\n".join(json.dumps({"file_name": n, "text": "a photo"}) for n in names))


def stage(folder: Path) -> Callable[[], None]:
    """All that the stage does: listing, color, hashes, duplicates' fingerprints, shard, index, reports."""
    rounds = iter(range(ROUNDS + 1))

    def run() -> None:
        fresh = folder / f"round-{next(rounds)}"  # nothing to take over from an earlier one
        cache = ShardCache(str(fresh / "cache"))
        preprocess("photos", folder / "raw", fresh / "images", fresh / "metrics.json", PARAMS, cache)

    return run


def bare_loop(pictures: list[bytes]) -> None:
    """Decode, orient, RGB, crop and resize, encode: no color management, no hash, nothing written."""
    for content in pictures:
        with Image.open(io.BytesIO(content)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            box = crop_box(image.size, "center")
            square = image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box)
        square.save(io.BytesIO(), "JPEG", quality=PARAMS.jpeg_quality, subsampling="4:4:4")


def img2dataset_loop(pictures: list[bytes], upscale_interpolation: str) -> Callable[[], None]:
    """OpenCV's decoder, filters and encoder: JPEGs of the same size and quality, but of half the color resolution."""
    from img2dataset.resizer import Resizer  # not among our packages

    resizer = Resizer(
        RESOLUTION,
        "center_crop",
        resize_only_if_bigger=False,
        upscale_interpolation=upscale_interpolation,
        encode_quality=PARAMS.jpeg_quality,
    )

    def run() -> None:
        for content in pictures:
            *_, error = resizer(io.BytesIO(content))
            assert error is None, error

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of data sets with zips of JPEGs")
    pictures = photos(parser.parse_args().photos)
    os.environ["WORKERS"] = "1"
    keep_freed_memory()  # as every stage's command does; the others have it too
    packages = ["imagehash", "numpy", "pillow", "torch"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        write_archive(folder / "raw" / "photos.zip", pictures)
        contestants: dict[str, Callable[[], None]] = {
            "preprocess-512": stage(folder),
            "bare Pillow loop": lambda: bare_loop(pictures),
        }
        if find_spec(PEER):
            contestants[f"{PEER}, its defaults"] = img2dataset_loop(pictures, "lanczos")
            contestants[f"{PEER}, bicubic"] = img2dataset_loop(pictures, "cubic")
            packages += [PEER, "opencv-python-headless", "albumentations"]
        seconds = interleaved(contestants, ROUNDS, time.process_time)
    ours = seconds["preprocess-512"]
    result = {
        "clock": "process",
        "pictures": f"{len(pictures)} photographs of COCO 2017 and Flickr8k",
        "pictures_per_second_and_core": {name: round(len(pictures) / min(times), 1) for name, times in seconds.items()},
        "times_as_fast_as": {name: ratio(times, ours) for name, times in seconds.items() if times is not ours},
        "cpu_seconds": seconds,
    }
    write_result("preprocess_speed", packages, result)


if __name__ == "__main__":
    main()
