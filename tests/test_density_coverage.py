import numpy as np
import pytest

from finetune.density_coverage import coverage, density
from finetune.precision_recall import precision


def line(*points: float) -> np.ndarray:
    return np.array(points, np.float32)[:, None]


def test_by_hand() -> None:
    """Neighborhoods at k = 2 of 0, 1, 3 and 10: radii 3, 2, 3 and 9."""
    real, generated = line(0, 1, 3, 10), line(2, 40)
    # 2 lies in all four neighborhoods, 40 in none: a mean of 2, over k
    assert density(real, generated, k=2) == pytest.approx(2 / 2)
    assert coverage(real, generated, k=2) == 1
    assert coverage(real, line(12, 40), k=2) == 1 / 4  # within the 9 of 10 alone


def test_density_of_equal_distributions_is_one_on_average() -> None:
    rng = np.random.default_rng(0)
    densities = [density(rng.normal(size=(200, 4)), rng.normal(size=(200, 4)), k=5) for _ in range(20)]
    assert np.mean(densities) == pytest.approx(1, abs=0.03)


def test_coverage_of_equal_distributions_has_a_closed_form() -> None:
    """With n = m, of 2n - 1 other points in random order k generated ones miss a neighborhood (Naeem et al., eq. 6)."""
    n, k = 200, 3
    rng = np.random.default_rng(0)
    coverages = [coverage(rng.normal(size=(n, 4)), rng.normal(size=(n, 4)), k) for _ in range(20)]
    expected = 1 - np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    assert np.mean(coverages) == pytest.approx(expected, abs=0.01)


def test_one_outlier_among_real_images_lifts_precision_and_hardly_density() -> None:
    rng = np.random.default_rng(0)
    real, far = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 8
    with_outlier = np.concatenate([real, [[30, 30]]])
    assert precision(real, far, k=5) < 0.05
    assert precision(with_outlier, far, k=5) > 0.95
    assert density(with_outlier, far, k=5) < 0.3
    assert coverage(with_outlier, far, k=5) < 0.05
