"""Neighborhoods among features: what precision, recall, density and coverage are counted from."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows of a distance matrix in memory at once

Features = NDArray[np.floating]


def squared_radii(features: Features, k: int) -> NDArray[np.float64]:
    """The squared distance `[n]` from each of `features [n, d]` to its k-th nearest other one. Needs n > k."""
    blocks = squared_distances(features, features)
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for block in blocks])  # at 0 is the point itself


def squared_distances(a: Features, b: Features) -> Iterator[NDArray[np.float64]]:
    """Between `a [n, d]` and `b [m, d]`, in blocks `[at most BLOCK, m]` of consecutive rows of `a`."""
    # float64: the difference of two large squares is all that is left between near features
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = (y * y).sum(axis=1)
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        yield np.maximum((rows * rows).sum(axis=1)[:, None] + squares - 2 * rows @ y.T, 0)
