"""The Frechet distance between two sets of features."""

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.model.determinism import generator

Matrix = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
TOLERANCE = 1e-4  # relative, of a bound that errors stay 10,000 times below and more: they have all signs
BLOCK = 256  # columns


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Between the normal distributions fitted to `a [n, d]` and `b [m, d]` (Dowson and Landau, 1982).

    |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), where the last trace is the sum of the singular
    values of the product of two covariance factors: exact too where n <= d, where the square root of a singular
    matrix is not. Where rounding allows, they are found in less time as roots of eigenvalues. Never negative. Needs n
    and m of at least 2.
    """
    (mean_a, centered_a), (mean_b, centered_b) = _moments(a), _moments(b)
    gap = mean_a - mean_b
    apart = float(gap @ gap + np.vdot(centered_a, centered_a) + np.vdot(centered_b, centered_b))
    if not is_rank_deficient(min(len(a), len(b)), a.shape[1]):
        roots = _roots_of_eigenvalues(centered_a, centered_b)
        distance = apart - 2 * float(roots.sum())
        if _sum_error(roots) <= TOLERANCE * distance:
            return distance
    cross = float(np.linalg.svd(_factor(centered_a) @ _factor(centered_b).T, compute_uv=False).sum())
    return max(0.0, apart - 2 * cross)  # below zero only by rounding: von Neumann's trace inequality


def is_rank_deficient(images: int, features: int) -> bool:
    """Whether a covariance of that many images is singular, so that a distance to it is dominated by its size."""
    return images <= features


def _moments(features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """The mean [d] and X [n, d], of which X^T X is the unbiased covariance."""
    centered = features.astype(np.float64)
    mean = centered.mean(axis=0)
    centered -= mean
    centered /= np.sqrt(len(centered) - 1)
    return mean, centered


def _factor(centered: Matrix) -> Matrix:
    """F [min(n, d), d] of the covariance F^T F."""
    return centered if len(centered) <= centered.shape[1] else np.asarray(np.linalg.qr(centered, mode="r"))


def _roots_of_eigenvalues(centered_a: Matrix, centered_b: Matrix) -> Matrix:
    """Those of S_a S_b, ascending: it has the eigenvalues of L^T S_b L, where S_a = L L^T (Golub and Van Loan, 8.7).

    Zeros where S_a has no such L.
    """
    covariance = centered_b.T @ centered_b
    try:
        lower = np.linalg.cholesky(centered_a.T @ centered_a)
    except np.linalg.LinAlgError:
        return np.zeros(len(covariance))
    product = np.zeros_like(lower)  # its lower triangle, for which half of each factor is enough
    for start in range(0, len(lower), BLOCK):
        columns = slice(start, start + BLOCK)
        product[start:, columns] = lower[start:, start:].T @ (covariance[start:, start:] @ lower[start:, columns])
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0))


def _sum_error(roots: Matrix) -> float:
    """About how far rounding may move twice the sum: each eigenvalue by a share of the largest, 1/(2 root) times that
    its root.
    """
    return EPSILON * float(roots[-1] ** 2 * (1 / roots).sum()) if roots[0] > 0 else np.inf


SIZES = 15  # of the subsets, as theirs


def is_extrapolable(images: int, features: int) -> bool:
    """Whether the smallest subset, half of the images, has twice as many as there are features.

    With fewer the distance does not yet fall as a line over 1/N.
    """
    return images >= 4 * features


def fid_infinity(generated: NDArray[np.floating], reference: NDArray[np.floating], seed: int) -> float:
    """The intercept of a line through the distances of subsets of `generated [n, d]`, over 1 / their size.

    Their section 4, with random subsets from half of the images up to all. What the size of `reference [m, d]`
    adds stays in it.
    """
    sizes = np.linspace(len(generated) // 2, len(generated), SIZES).astype(int)
    distances = [
        frechet_distance(
            generated[torch.randperm(len(generated), generator=generator(seed, "infinity", i))[:size].numpy()],
            reference,
        )
        for i, size in enumerate(sizes.tolist())
    ]
    _slope, intercept = np.polyfit(1 / sizes, distances, 1)
    return float(intercept)
