"""Improved precision and recall (Kynkaanniemi et al., 2019): fidelity and diversity, each between 0 and 1."""

import numpy as np

from finetune.neighbors import Features, squared_distances, squared_radii


def precision(real: Features, generated: Features, k: int) -> float:
    """The fraction of `generated [m, d]` that lies as near to one of `real [n, d]` as its k-th nearest real one does.

    Their equation 1 and 2. Recall is the same with the sets exchanged. Needs n > k.
    """
    radii = squared_radii(real, k)
    return float(np.concatenate([(block <= radii).any(axis=1) for block in squared_distances(generated, real)]).mean())


def recall(real: Features, generated: Features, k: int) -> float:
    """The fraction of `real [n, d]` that lies within the neighborhoods of `generated [m, d]`. Needs m > k."""
    return precision(generated, real, k)
