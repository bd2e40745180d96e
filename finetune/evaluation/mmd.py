"""Maximum mean discrepancy: KID on Inception-like features and CMMD on CLIP embeddings. And CLIPScore."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows of the kernel matrix in memory at a time
BANDWIDTH, SCALE = 10.0, 1000.0  # of CMMD, as in Jayasumana et al. (2024)

Embeddings = NDArray[np.float32]  # [n, d], unit length


def kid(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the kernel inception distance of `a [n, d]` and `b [m, d]` (Binkowski et al., 2018, equation 4).

    The unbiased estimate of the squared MMD with kernel (x.y / d + 1)^3, from all pairs. It averages 0 for equal
    distributions, so single values can be negative.
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


def clip_score(images: Embeddings, captions: Embeddings) -> float:
    """Return the mean of 100 max(cosine, 0) of image and caption: torchmetrics' scale, not the 2.5 of Hessel et al."""
    cosines = (images.astype(np.float64) * captions).sum(axis=1)
    return float(100 * np.maximum(cosines, 0).mean())


def cmmd(a: Embeddings, b: Embeddings) -> float:
    """Return the CLIP maximum mean discrepancy (Jayasumana et al., 2024), unbiased: it averages 0 for equal sets.

    The authors' code uses the biased estimate, which is larger by about 2 / n of the kernel's spread.
    """
    within = [_gaussian_kernel(x, x) for x in (a, b)]
    means = [(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(SCALE * (means[0] + means[1] - 2 * _gaussian_kernel(a, b).mean()))


def _gaussian_kernel(a: Embeddings, b: Embeddings) -> NDArray[np.float64]:
    # the squared distance of unit vectors is 2 - 2 x.y
    return np.exp((a.astype(np.float64) @ b.astype(np.float64).T - 1) / BANDWIDTH**2)
