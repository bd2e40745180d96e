"""The kernel inception distance between two sets of features (Binkowski et al., 2018)."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows of a kernel matrix in memory at once


def kid(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The unbiased estimate from every pair of `a [n, d]` and `b [m, d]`: 0 on average for equal distributions.

    Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, their equation 4. May be negative.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    n, m = len(x), len(y)
    within_a = (_kernel_sum(x, x) - _kernel_diagonal(x).sum()) / (n * (n - 1))
    within_b = (_kernel_sum(y, y) - _kernel_diagonal(y).sum()) / (m * (m - 1))
    return float(within_a + within_b - 2 * _kernel_sum(x, y) / (n * m))


def _kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    blocks = (a[start : start + BLOCK] for start in range(0, len(a), BLOCK))
    return sum(float(((block @ b.T / a.shape[1] + 1) ** 3).sum()) for block in blocks)


def _kernel_diagonal(a: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((a * a).sum(axis=1) / a.shape[1] + 1) ** 3


BANDWIDTH = 10.0  # of the Gaussian kernel, and
SCALE = 1000.0  # of the distance: those of Jayasumana et al. (2024)

Embeddings = NDArray[np.float32]  # [n, d], of length 1


def clip_score(images: Embeddings, captions: Embeddings) -> float:
    """The mean of 100 max(cosine, 0) between each image and its caption: torchmetrics' scale, not Hessel's 2.5."""
    cosines = (images.astype(np.float64) * captions).sum(axis=1)
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
