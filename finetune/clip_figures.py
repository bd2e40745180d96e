"""What CLIP's embeddings of pictures and captions say of a model."""

import numpy as np
from numpy.typing import NDArray

BANDWIDTH = 10.0  # of the Gaussian kernel, and
SCALE = 1000.0  # of the distance: those of Jayasumana et al. (2024)

Embeddings = NDArray[np.float32]  # [n, d], of length 1


def clip_score(pictures: Embeddings, captions: Embeddings) -> float:
    """The mean of 100 max(cosine, 0) between each picture and its caption: torchmetrics' scale, not Hessel's 2.5."""
    cosines = (pictures.astype(np.float64) * captions).sum(axis=1)
    return float(100 * np.maximum(cosines, 0).mean())


def cmmd(a: Embeddings, b: Embeddings) -> float:
    """CLIP's maximum mean discrepancy (Jayasumana et al., 2024), by the unbiased estimate: 0 on average for equal sets.

    Their code has the biased one, which is larger by about 2 / n of the kernel's spread.
    """
    within = [_kernel(x, x) for x in (a, b)]
    means = [(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(SCALE * (means[0] + means[1] - 2 * _kernel(a, b).mean()))


def _kernel(a: Embeddings, b: Embeddings) -> NDArray[np.float64]:
    """Of vectors of length 1, whose squared distance is 2 - 2 x.y."""
    return np.exp((a.astype(np.float64) @ b.astype(np.float64).T - 1) / BANDWIDTH**2)
