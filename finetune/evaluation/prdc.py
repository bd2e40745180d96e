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


def precision(real: Features, generated: Features, k: int) -> float:
    """The fraction of `generated [m, d]` that lies as near to one of `real [n, d]` as its k-th nearest real one does.

    Their equation 1 and 2. Recall is the same with the sets exchanged. Needs n > k.
    """
    radii = squared_radii(real, k)
    return float(np.concatenate([(block <= radii).any(axis=1) for block in squared_distances(generated, real)]).mean())


def recall(real: Features, generated: Features, k: int) -> float:
    """The fraction of `real [n, d]` that lies within the neighborhoods of `generated [m, d]`. Needs m > k."""
    return precision(generated, real, k)


def density(real: Features, generated: Features, k: int) -> float:
    """How many neighborhoods of `real [n, d]` an image of `generated [m, d]` lies in, divided by k.

    Their equation 3. About 1 for equal distributions, not bounded by it. Needs n > k.
    """
    radii = squared_radii(real, k)
    counts = [(block <= radii).sum(axis=1) for block in squared_distances(generated, real)]
    return float(np.concatenate(counts).mean() / k)


def coverage(real: Features, generated: Features, k: int) -> float:
    """The fraction of `real [n, d]` whose neighborhood holds at least one of `generated [m, d]`: their equation 4.

    For equal distributions and n = m it is about 1 - 2^-k, so never quite 1. Needs n > k.
    """
    nearest = np.concatenate([block.min(axis=1) for block in squared_distances(real, generated)])
    return float((nearest <= squared_radii(real, k)).mean())
