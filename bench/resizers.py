"""Decoders and resizers for preprocess-512: how fast each is, and how far its pictures are from Pillow's.

    python -m bench.resizers PHOTOS

Of each set of pictures: the speed of decode, crop, resize and encode as a ratio to Pillow's in the same rounds; PSNR
against Pillow's pixels; the Frechet distance between the two outputs, beside that of two random halves of Pillow's.
libvips and OpenCV are measured where they are installed, in an environment beside ours: `pip install pyvips-binary
pyvips opencv-python-headless`.
"""

import argparse
import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from bench.harness import interleaved, ratio, write_result
from bench.photographs import MIN_SIDE, photos
from finetune.data.transforms import RESOLUTION, crop_and_resize, crop_box, encode_jpeg
from finetune.datasets.scenes import draw, make_scene
from finetune.evaluation.features import Extractor, extract, load_extractor
from finetune.evaluation.frechet import frechet_distance

Pixels = NDArray[np.uint8]
Resizer = Callable[[bytes], Pixels]  # a file's bytes to RGB [512, 512, 3]

ROUNDS = 3
TIMED = 16  # pictures of each set; all of them are compared
MOSAICS = 100
TILE = MIN_SIDE  # pixels; every photograph has them
COLUMNS, LINES = 8, 6  # of a mosaic
REFERENCE = "Pillow, bicubic"
BATCH = 16
OTHERS = {"opencv-python-headless": "cv2", "pyvips-binary": "pyvips"}  # packages beside ours and their modules


def candidates() -> dict[str, Resizer]:
    found: dict[str, Resizer] = {
        REFERENCE: lambda content: np.asarray(pillow(content)),
        "Pillow, reducing_gap 2": lambda content: np.asarray(pillow(content, reducing_gap=2.0)),
        "Pillow, JPEG draft to 512": lambda content: np.asarray(pillow(content, draft=1)),
        "Pillow, JPEG draft to 1024": lambda content: np.asarray(pillow(content, draft=2)),
        "torch, bytes": torch_bytes,
        "torch, bytes, JPEG draft to 1024": lambda content: torch_bytes(content, draft=2),
        "torch, floats": torch_floats,
    }
    if find_spec("cv2"):
        found["OpenCV, area or cubic"] = opencv
    if find_spec("pyvips"):
        found["libvips, cubic"] = vips
        found["libvips, thumbnail"] = vips_thumbnail
    return found


def compare(pictures: list[bytes], extractor: Extractor) -> dict[str, Any]:
    resizers = candidates()
    timed = pictures[:: max(1, len(pictures) // TIMED)][:TIMED]
    seconds = interleaved({name: _loop(timed, resize) for name, resize in resizers.items()}, ROUNDS, process_time)
    expected = [resizers[REFERENCE](content) for content in pictures]
    expected_features = extract(extractor, expected, BATCH)
    order = np.random.default_rng(0).permutation(len(pictures))
    halves = np.array_split(expected_features[order], 2)
    rows: dict[str, dict[str, Any]] = {}
    for name, resize in resizers.items():
        speed: dict[str, Any] = {"times_as_fast": ratio(seconds[REFERENCE], seconds[name])}
        if name == REFERENCE:
            rows[name] = speed | {"pictures_per_second": round(len(timed) / min(seconds[name]), 1)}
            continue
        got = [resize(content) for content in pictures]
        rows[name] = speed | {
            "psnr": _psnr(got, expected),
            "frechet_distance": round(frechet_distance(extract(extractor, got, BATCH), expected_features), 4),
        }
    floor = round(frechet_distance(*halves), 4)
    return {"pictures": len(pictures), "timed": len(timed), "frechet_distance_of_halves": floor, "resizers": rows}


def mosaics(images: list[Image.Image]) -> list[bytes]:
    """JPEGs of the middles of 48 images drawn by lot: as large as a camera's, with detail of single pixels."""
    tiles = [_tile(image) for image in images]
    rng = np.random.default_rng(0)
    made = []
    for _ in range(MOSAICS):
        page = Image.new("RGB", (COLUMNS * TILE, LINES * TILE))
        for place, tile in enumerate(rng.choice(len(tiles), COLUMNS * LINES, replace=False)):
            page.paste(tiles[tile], (place % COLUMNS * TILE, place // COLUMNS * TILE))
        file = io.BytesIO()
        page.save(file, "JPEG", quality=95)
        made.append(file.getvalue())
    return made


def opened(content: bytes, draft: int | None = None) -> Image.Image:
    """Upright, RGB, without its color profile. draft: at least that many times 512 pixels are decoded, of a larger
    JPEG.
    """
    image = Image.open(io.BytesIO(content))
    if draft:
        image.draft("RGB", (draft * RESOLUTION, draft * RESOLUTION))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    picture = image.convert("RGB")
    picture.info.clear()  # not every candidate would convert colors
    return picture


def pillow(content: bytes, draft: int | None = None, reducing_gap: float | None = None) -> Image.Image:
    image = opened(content, draft)
    box = crop_box(image.size, "center")
    return image.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box, reducing_gap=reducing_gap)


def torch_bytes(content: bytes, draft: int | None = None) -> Pixels:
    """As the stage does."""
    return np.asarray(crop_and_resize(opened(content, draft), "center"))


def torch_floats(content: bytes) -> Pixels:
    image = opened(content)
    planes = torch.from_numpy(np.array(image.crop(crop_box(image.size, "center")))).permute(2, 0, 1)[None].float()
    resized = interpolate(planes, size=(RESOLUTION, RESOLUTION), mode="bicubic", antialias=True)
    return resized[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def opencv(content: bytes) -> Pixels:
    import cv2  # not among our packages

    cv2.setNumThreads(1)
    image = opened(content)
    square = np.asarray(image.crop(crop_box(image.size, "center")))
    shrinks = square.shape[0] > RESOLUTION
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (RESOLUTION, RESOLUTION), interpolation=how), np.uint8)


def vips(content: bytes) -> Pixels:
    import pyvips  # not among our packages

    image = pyvips.Image.new_from_buffer(content, "", access="random").autorot().colourspace("srgb")
    side = min(image.width, image.height)
    square = image.crop((image.width - side) // 2, (image.height - side) // 2, side, side)
    return square.resize(RESOLUTION / side, kernel="cubic").numpy()[..., :3]


def vips_thumbnail(content: bytes) -> Pixels:
    """As its users are told to: it decodes a JPEG no larger than needed."""
    import pyvips

    return (
        pyvips.Image.thumbnail_buffer(content, RESOLUTION, height=RESOLUTION, crop="centre")
        .colourspace("srgb")
        .numpy()[..., :3]
    )


def _loop(pictures: list[bytes], resize: Resizer) -> Callable[[], None]:
    def run() -> None:
        for content in pictures:
            encode_jpeg(Image.fromarray(np.ascontiguousarray(resize(content))), 95)

    return run


def _tile(image: Image.Image) -> Image.Image:
    left, top = (image.width - TILE) // 2, (image.height - TILE) // 2
    return image.crop((left, top, left + TILE, top + TILE))


def _psnr(got: list[Pixels], expected: list[Pixels]) -> dict[str, float]:
    """In dB, of pictures of 8 bits; 100 stands for equal ones."""
    errors = [float(((a.astype(np.float64) - b) ** 2).mean()) for a, b in zip(got, expected, strict=True)]
    values = [min(100.0, 10 * float(np.log10(255**2 / error))) if error else 100.0 for error in errors]
    return {"mean": round(float(np.mean(values)), 1), "min": round(min(values), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of data sets with zips of JPEGs")
    parser.add_argument("--extractor", type=Path, default=Path("models/extractor/efficientnet-lite0.pth"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["VIPS_CONCURRENCY"] = "1"
    packages = ["pillow", "torch"] + [name for name, module in OTHERS.items() if find_spec(module)]
    photographs = photos(arguments.photos)
    scenes = [draw(make_scene(seed, "striped")) for seed in range(COLUMNS * LINES)]
    sets = {
        "photographs": photographs,
        "mosaics of photographs, 2048x1536": mosaics([opened(content) for content in photographs]),
        "mosaics of drawn scenes, 2048x1536": mosaics(scenes),
    }
    extractor = load_extractor(arguments.extractor)
    result = {name: compare(pictures, extractor) for name, pictures in sets.items()}
    write_result("resizers", packages, {"clock": "process", "sets": result})


if __name__ == "__main__":
    main()
