"""Frechet distance between two sets of features, and its extrapolation to infinitely many images."""

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.model.determinism import generator

Matrix = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
TOLERANCE = 1e-4  # relative; measured errors stay at least 10,000 times below this bound, because signs cancel
BLOCK = 256  # columns
SUBSET_SIZES = 15  # as in Chong and Forsyth's code


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the Frechet distance between normal distributions fitted to `a [n, d]` and `b [m, d]`; n, m >= 2.

    d^2 = |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2) (Dowson and Landau, 1982). Never negative.

    The last trace is the sum of the singular values of F_a F_b^T, where S = F^T F. This is exact even if n <= d,
    unlike the square root of a singular matrix. If a bound on the rounding error allows, the faster way is taken:
    square roots of the eigenvalues of S_a S_b.
    """
    (mean_a, centered_a), (mean_b, centered_b) = _moments(a), _moments(b)
    shift = mean_a - mean_b
    upper = float(shift @ shift + np.vdot(centered_a, centered_a) + np.vdot(centered_b, centered_b))
    if not is_rank_deficient(min(len(a), len(b)), a.shape[1]):
        roots = _roots_of_eigenvalues(centered_a, centered_b)
        distance = upper - 2 * float(roots.sum())
        if _sum_error(roots) <= TOLERANCE * distance:
            return distance
    cross = float(np.linalg.svd(_factor(centered_a) @ _factor(centered_b).T, compute_uv=False).sum())
    return max(0.0, upper - 2 * cross)  # negative by rounding only: von Neumann's trace inequality


def is_rank_deficient(images: int, features: int) -> bool:
    """Return whether the covariance is singular. The number of images then dominates the distance."""
    return images <= features


def _moments(features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """Return the mean [d] and X [n, d] such that X^T X is the unbiased covariance."""
    centered = features.astype(np.float64)
    mean = centered.mean(axis=0)
    centered -= mean
    centered /= np.sqrt(len(centered) - 1)
    return mean, centered


def _factor(centered: Matrix) -> Matrix:
    """Return F [min(n, d), d] such that F^T F is the covariance."""
    return centered if len(centered) <= centered.shape[1] else np.asarray(np.linalg.qr(centered, mode="r"))


def _roots_of_eigenvalues(centered_a: Matrix, centered_b: Matrix) -> Matrix:
    """Return the square roots of the eigenvalues of S_a S_b, ascending.

    They equal those of L^T S_b L, where S_a = L L^T (Golub and Van Loan, 8.7). Zeros if S_a has no Cholesky factor.
    """
    covariance = centered_b.T @ centered_b
    try:
        lower = np.linalg.cholesky(centered_a.T @ centered_a)
    except np.linalg.LinAlgError:
        return np.zeros(len(covariance))
    product = np.zeros_like(lower)  # only the lower triangle: half of the multiplications
    for start in range(0, len(lower), BLOCK):
        columns = slice(start, start + BLOCK)
        product[start:, columns] = lower[start:, start:].T @ (covariance[start:, start:] @ lower[start:, columns])
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0))


def _sum_error(roots: Matrix) -> float:
    """Estimate the rounding error of twice the sum of the roots.

    Each eigenvalue is off by up to EPSILON times the largest one, and its root by 1 / (2 root) times that.
    """
    return EPSILON * float(roots[-1] ** 2 * (1 / roots).sum()) if roots[0] > 0 else np.inf


def is_extrapolable(images: int, features: int) -> bool:
    """Return whether half of the images are at least twice as many as the features.

    With smaller subsets the distance is not yet linear in 1/N.
    """
    return images >= 4 * features


def fid_infinity(generated: NDArray[np.floating], reference: NDArray[np.floating], seed: int) -> float:
    """Extrapolate the distance to infinitely many generated images (FID-infinity; Chong and Forsyth, 2020, section 4).

    Fits a line through the distances of random subsets of `generated [n, d]`, from half to all, over 1 / size, and
    returns its intercept. The bias from the size of `reference [m, d]` remains.
    """
    sizes = np.linspace(len(generated) // 2, len(generated), SUBSET_SIZES).astype(int)
    distances = [
        frechet_distance(
            generated[torch.randperm(len(generated), generator=generator(seed, "infinity", i))[:size].numpy()],
            reference,
        )
        for i, size in enumerate(sizes.tolist())
    ]
    _slope, intercept = np.polyfit(1 / sizes, distances, 1)
    return float(intercept)
