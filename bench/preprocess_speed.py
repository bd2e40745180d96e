"""preprocess-512 in one process, compared with a bare Pillow loop and img2dataset's resizer on the same photos.

    python -m bench.preprocess_speed PHOTOS

img2dataset is measured if it is installed. It would change the locked packages, so use a separate environment:
`pip install img2dataset==1.47.0 opencv-python-headless albumentations`. It shrinks by area averaging. It enlarges with
a Lanczos filter by default, which is slower than bicubic, so it also runs with OpenCV's bicubic filter.
"""

import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from PIL import Image, ImageOps

from bench.harness import interleaved, make_parser, ratio, write_result
from bench.inputs import MIN_SIDE, read_photos
from finetune.data.shard_cache import ShardCache
from finetune.data.transforms import RESOLUTION, crop_box
from finetune.params import PreprocessDataset
from finetune.process import keep_freed_memory
from stages.preprocess import preprocess

PARAMS = PreprocessDataset(
    format="imagefolder", crop="center", min_side=MIN_SIDE, jpeg_quality=95, shards=1, max_dropped=0.0
)
ROUNDS = 5
BASELINE = "img2dataset"


def write_archive(path: Path, photos: list[bytes]) -> None:
    names = [f"{i:06d}.jpg" for i in range(len(photos))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(names, photos, strict=True):
            archive.writestr(name, content)
        archive.writestr("metadata.jsonl", "\n".join(json.dumps({"file_name": n, "text": "a photo"}) for n in names))


def run_stage(folder: Path) -> None:
    """Run the complete stage without cached shards, including color management, hashes, index and reports."""
    fresh = Path(mkdtemp(dir=folder))
    cache = ShardCache(str(fresh / "cache"))
    preprocess("photos", folder / "raw", fresh / "images", fresh / "metrics.json", PARAMS, cache)


def bare_loop(photos: list[bytes]) -> None:
    """Decode, orient, convert to RGB, crop, resize and encode; without color management, hashes or files."""
    for content in photos:
        with Image.open(io.BytesIO(content)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            box = crop_box(image.size, "center")
            square = image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box)
        square.save(io.BytesIO(), "JPEG", quality=PARAMS.jpeg_quality, subsampling="4:4:4")


def img2dataset_loop(photos: list[bytes], upscale_interpolation: str) -> Callable[[], None]:
    """Return a function that resizes with OpenCV to JPEGs of the same size and quality, but with chroma subsampling."""
    from img2dataset.resizer import Resizer  # not among the locked packages

    resizer = Resizer(
        RESOLUTION,
        "center_crop",
        resize_only_if_bigger=False,
        upscale_interpolation=upscale_interpolation,
        encode_quality=PARAMS.jpeg_quality,
    )

    def run() -> None:
        for content in photos:
            *_, error = resizer(io.BytesIO(content))
            assert error is None, error

    return run


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("photos", type=Path, help="one folder per dataset, each with zip archives of JPEGs")
    photos = read_photos(parser.parse_args().photos)
    os.environ["WORKERS"] = "1"
    keep_freed_memory()  # as every stage does; here it serves the baselines too
    packages = ["imagehash", "numpy", "pillow", "torch"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        write_archive(folder / "raw" / "photos.zip", photos)
        candidates: dict[str, Callable[[], None]] = {
            "preprocess-512": lambda: run_stage(folder),
            "bare Pillow loop": lambda: bare_loop(photos),
        }
        if find_spec(BASELINE):
            candidates[f"{BASELINE}, its defaults"] = img2dataset_loop(photos, "lanczos")
            candidates[f"{BASELINE}, bicubic"] = img2dataset_loop(photos, "cubic")
            packages += [BASELINE, "opencv-python-headless", "albumentations"]
        seconds = interleaved(candidates, ROUNDS, time.process_time)
    ours = seconds["preprocess-512"]
    result = {
        "clock": "process",
        "images": f"{len(photos)} photos of COCO 2017 and Flickr8k",
        "images_per_cpu_second": {name: round(len(photos) / min(times), 1) for name, times in seconds.items()},
        "speedup_over": {name: ratio(times, ours) for name, times in seconds.items() if times is not ours},
        "cpu_seconds": seconds,
    }
    write_result("preprocess_speed", packages, result)


if __name__ == "__main__":
    main()
