"""How far apart perceptual hashes are: of different photographs, and of one photograph before and after an edit.

    python -m bench.hash_distances PHOTOS

What `tokenize.near_duplicate_bits` is chosen from.
"""

import argparse
import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageEnhance

from bench.harness import write_result
from bench.photographs import photos
from finetune.data.transforms import RESOLUTION, crop_and_resize, decode, perceptual_hash

EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": lambda image: _compressed(image, 30),
    "scaled to half": lambda image: image.resize((RESOLUTION // 2, RESOLUTION // 2)).resize(image.size),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "a fifth brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "1% cropped from every side": lambda image: image.crop((5, 5, RESOLUTION - 5, RESOLUTION - 5)).resize(image.size),
}


def distance(a: str, b: str) -> int:
    """Bits, of two hashes in hexadecimal digits."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    squares = [crop_and_resize(decode(content, 1), "center") for content in photos(parser.parse_args().photos)]
    hashes = [perceptual_hash(square) for square in squares]
    result = {
        "photographs": len(squares),
        "bits": 4 * len(hashes[0]),
        "nearest_two": min(distance(a, b) for a, b in combinations(hashes, 2)),
        "farthest_from_itself": {
            name: max(distance(one, perceptual_hash(edit(square))) for one, square in zip(hashes, squares, strict=True))
            for name, edit in EDITS.items()
        },
    }
    write_result("hash_distances", ["imagehash", "pillow"], result)


if __name__ == "__main__":
    main()
