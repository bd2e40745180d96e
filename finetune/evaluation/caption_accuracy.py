"""Caption accuracy: read generated images of synthetic scenes back, and compare them with their captions.

Each caption describes exactly one scene. An image counts as the scene, centered or mirrored, that is nearest to it in
mean squared error at 32x32 pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.datasets.scenes.canvas import Placement
from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import WORLDS, Combination, Scene, combinations

SIDE = 32  # pixels that images are compared at


def caption_accuracy(captioned: Sequence[Combination], images: Iterable[Image.Image]) -> dict[str, float]:
    """Return the fraction of images that show what their caption says, by attribute and for all four together."""
    pairs = zip(captioned, read_back(images), strict=True)
    right = np.array([[a == b for a, b in zip(*pair, strict=True)] for pair in pairs])
    shares = dict(zip(Combination._fields, right.mean(axis=0), strict=True)) | {"all": right.all(axis=1).mean()}
    return {name: round(float(share), 4) for name, share in shares.items()}


def read_back(images: Iterable[Image.Image]) -> Iterator[Combination]:
    """Yield what each 512x512 image shows."""
    known, scenes = _scenes()
    norms = (scenes**2).sum(axis=1)
    for image in images:
        distances = norms - 2 * scenes @ _reduced(image).ravel()
        yield known[int(distances.argmin()) // 2]


@cache
def _scenes() -> tuple[list[Combination], NDArray[np.float32]]:
    """Return every combination, and two rows for each: its scene and the mirror image."""
    known = [each for world in WORLDS for each in combinations(world)]
    views = [Scene(each, Placement(mirrored=mirrored)) for each in known for mirrored in (False, True)]
    return known, np.stack([_reduced(draw(view, supersample=1)).ravel() for view in views])


def _reduced(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.reduce(image.width // SIDE), np.float32) / np.float32(255)
