"""Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020).

All four count which features lie in k-NN balls: around each feature, a ball that reaches its k-th nearest neighbor.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows of the distance matrix in memory at a time

Features = NDArray[np.floating]


def squared_radii(features: Features, k: int) -> NDArray[np.float64]:
    """Return the squared radii `[n]` of the k-NN balls around `features [n, d]`. Needs n > k."""
    blocks = squared_distances(features, features)
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for block in blocks])  # index 0 is the point itself


def squared_distances(a: Features, b: Features) -> Iterator[NDArray[np.float64]]:
    """Yield the squared distances between `a [n, d]` and `b [m, d]` in blocks `[<= BLOCK, m]` of rows of `a`."""
    # float64, because the distance of close features is a small difference of large squares
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = (y * y).sum(axis=1)
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        yield np.maximum((rows * rows).sum(axis=1)[:, None] + squares - 2 * rows @ y.T, 0)


def precision(real: Features, generated: Features, k: int) -> float:
    """Return the fraction of `generated [m, d]` inside any k-NN ball of `real [n, d]` (equations 1, 2). Needs n > k."""
    radii = squared_radii(real, k)
    return float(np.concatenate([(block <= radii).any(axis=1) for block in squared_distances(generated, real)]).mean())


def recall(real: Features, generated: Features, k: int) -> float:
    """Return the fraction of `real [n, d]` inside any k-NN ball of `generated [m, d]`. Needs m > k."""
    return precision(generated, real, k)


def density(real: Features, generated: Features, k: int) -> float:
    """Return the mean number of k-NN balls of `real [n, d]` around each of `generated [m, d]`, over k (equation 3).

    About 1 for equal distributions; it can exceed 1. Needs n > k.
    """
    radii = squared_radii(real, k)
    counts = [(block <= radii).sum(axis=1) for block in squared_distances(generated, real)]
    return float(np.concatenate(counts).mean() / k)


def coverage(real: Features, generated: Features, k: int) -> float:
    """Return the fraction of `real [n, d]` whose k-NN ball contains any of `generated [m, d]` (equation 4).

    About 1 - 2^-k for equal distributions with n = m. Needs n > k.
    """
    nearest = np.concatenate([block.min(axis=1) for block in squared_distances(real, generated)])
    return float((nearest <= squared_radii(real, k)).mean())
