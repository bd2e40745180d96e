"""The Frechet distance between two sets of features."""

import numpy as np
from numpy.typing import NDArray


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Between the normal distributions fitted to `a [n, d]` and `b [m, d]` (Dowson and Landau, 1982).

    |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), where the last trace is the sum of the singular
    values of the product of two covariance factors: exact too where n <= d, where the square root of a singular
    matrix is not. Never negative. Needs n and m of at least 2.
    """
    mean_a, factor_a = _moments(a)
    mean_b, factor_b = _moments(b)
    cross = float(np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum())
    gap = mean_a - mean_b
    distance = gap @ gap + (factor_a**2).sum() + (factor_b**2).sum() - 2 * cross
    return max(0.0, float(distance))  # below zero only by rounding: von Neumann's trace inequality


def is_rank_deficient(images: int, features: int) -> bool:
    """Whether a covariance of that many images is singular, so that a distance to it is dominated by its size."""
    return images <= features


def _moments(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean [d] and a factor F [min(n, d), d] of the unbiased covariance F^T F."""
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    centered = (values - mean) / np.sqrt(len(values) - 1)
    if len(values) <= values.shape[1]:
        return mean, centered
    return mean, np.asarray(np.linalg.qr(centered, mode="r"))
