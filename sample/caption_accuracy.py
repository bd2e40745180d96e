"""Which caption does a generated image show? Since every caption's scene is known, an image can be read back.

An image shows the combination whose scene, drawn in its regular place or mirrored, is nearest in mean squared error at
32x32 pixels. Caption accuracy is the share of images that show the subject, outfit, pose, background, or all four, of
the caption that they were generated from.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.datasets.canvas import Placement
from finetune.datasets.drawing import draw
from finetune.datasets.world import Combination, Scene, World, combinations

SIDE = 32  # pixels that images are compared at
WORLDS: tuple[World, ...] = ("plain", "new", "unseen")


def read_back(images: Iterable[Image.Image]) -> Iterator[Combination]:
    """What each 512x512 image shows."""
    known, scenes = _scenes()
    norms = (scenes**2).sum(axis=1)
    for image in images:
        distances = norms - 2 * scenes @ _reduced(image).ravel()
        yield known[int(distances.argmin()) // 2]


def caption_accuracy(asked: Iterable[Combination], images: Iterable[Image.Image]) -> dict[str, float]:
    """Shares in [0, 1] by attribute; `all` counts images in which all four are right."""
    right = np.array(
        [[a == b for a, b in zip(*pair, strict=True)] for pair in zip(asked, read_back(images), strict=True)]
    )
    shares = dict(zip(Combination._fields, right.mean(axis=0), strict=True)) | {"all": right.all(axis=1).mean()}
    return {name: round(float(share), 4) for name, share in shares.items()}


@cache
def _scenes() -> tuple[tuple[Combination, ...], NDArray[np.float32]]:
    """Every combination, and two rows for each: its scene and the mirror image."""
    known = tuple(each for world in WORLDS for each in combinations(world))
    views = [
        _reduced(draw(Scene(each, Placement(mirrored=mirrored)))).ravel()
        for each in known
        for mirrored in (False, True)
    ]
    return known, np.stack(views)


def _reduced(image: Image.Image) -> NDArray[np.float32]:
    pixels = np.asarray(image.reduce(image.width // SIDE), np.float32)
    return pixels / np.float32(255)
