"""Density and coverage (Naeem et al., 2020): precision and recall that one outlier cannot change."""

import numpy as np

from finetune.neighbors import Features, squared_distances, squared_radii


def density(real: Features, generated: Features, k: int) -> float:
    """How many neighborhoods of `real [n, d]` a picture of `generated [m, d]` lies in, divided by k.

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
