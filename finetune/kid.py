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
