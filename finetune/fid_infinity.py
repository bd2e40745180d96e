"""The Frechet distance that infinitely many generated pictures would score (Chong and Forsyth, 2020)."""

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.frechet import frechet_distance
from finetune.seeding import generator

SIZES = 15  # of the subsets, as theirs


def is_extrapolable(images: int, features: int) -> bool:
    """Whether the smallest subset, half of the images, has twice as many as there are features.

    With fewer the distance does not yet fall as a line over 1/N.
    """
    return images >= 4 * features


def fid_infinity(generated: NDArray[np.floating], reference: NDArray[np.floating], seed: int) -> float:
    """The intercept of a line through the distances of subsets of `generated [n, d]`, over 1 / their size.

    Their section 4, with random subsets from half of the images up to all. What the size of `reference [m, d]`
    adds stays in it.
    """
    sizes = np.linspace(len(generated) // 2, len(generated), SIZES).astype(int)
    distances = [
        frechet_distance(
            generated[torch.randperm(len(generated), generator=generator(seed, "infinity", i))[:size].numpy()],
            reference,
        )
        for i, size in enumerate(sizes.tolist())
    ]
    _slope, intercept = np.polyfit(1 / sizes, distances, 1)
    return float(intercept)
