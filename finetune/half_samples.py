"""How uncertain a figure of sampled pictures is, from random halves of the sample."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.seeding import generator


def random_halves(draws: int, seed: int, *sizes: int) -> Iterator[list[NDArray[np.int64]]]:
    """`draws` times the positions of a random half of each sample, the larger half of an odd one.

    The standard deviation of a figure over these is that of the figure from whole samples: drawn without
    replacement, half a sample varies around the whole as the whole does around the truth. A bootstrap would do the
    same for the deviation, but its repeated pictures bias Frechet distances and are each other's nearest neighbors.
    """
    for draw in range(draws):
        rng = generator(seed, "halves", draw)
        yield [torch.randperm(size, generator=rng)[: -(-size // 2)].numpy() for size in sizes]
