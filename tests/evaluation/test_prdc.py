import numpy as np
import pytest

from finetune.evaluation import prdc
from finetune.evaluation.prdc import coverage, density, precision, recall, squared_distances, squared_radii

LINE = np.array([[0], [1], [3], [7]], np.float32)


def test_radius_is_the_distance_to_the_k_th_neighbor() -> None:
    assert squared_radii(LINE, 1).tolist() == [1, 1, 4, 16]
    assert squared_radii(LINE, 2).tolist() == [9, 4, 9, 36]


def test_duplicates_are_neighbors() -> None:
    assert squared_radii(np.array([[2], [2], [5]], np.float32), 1).tolist() == [0, 0, 9]


@pytest.mark.parametrize("block", [2, 1024])
def test_distances_do_not_depend_on_the_block_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prdc, "BLOCK", block)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    expected = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    assert np.concatenate(list(squared_distances(a, b))) == pytest.approx(expected)


def line(*points: float) -> np.ndarray:
    return np.array(points, np.float32)[:, None]


def test_precision_and_recall_equal_hand_computed_values() -> None:
    """Radii at k = 1 are 1, 1 and 9 around 0, 1 and 10."""
    real, generated = line(0, 1, 10), line(2, 20, 30)
    assert precision(real, generated, k=1) == pytest.approx(1 / 3)  # 2 is within 1 of 1; 20 and 30 are out
    # generated radii: 18, 10, 10; 0, 1 and 10 lie within 18 of 2
    assert recall(real, generated, k=1) == 1


def test_equal_sets_have_full_precision_and_recall() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision(points, points, k=3) == recall(points, points, k=3) == 1


def test_distant_sets_have_no_precision_or_recall() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision(points, points + 100, k=3) == recall(points, points + 100, k=3) == 0


def test_missing_modes_reduce_recall_but_not_precision() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) / 10
    assert precision(wide, narrow, k=3) > 0.95
    assert recall(wide, narrow, k=3) < 0.3


def test_implausible_images_reduce_precision_but_not_recall() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) / 10
    assert precision(narrow, wide, k=3) < 0.3
    assert recall(narrow, wide, k=3) > 0.95


def test_density_and_coverage_equal_hand_computed_values() -> None:
    """Radii at k = 2 are 3, 2, 3 and 9 around 0, 1, 3 and 10."""
    real, generated = line(0, 1, 3, 10), line(2, 40)
    # 2 lies in all four balls, 40 in none: mean 2, over k
    assert density(real, generated, k=2) == pytest.approx(2 / 2)
    assert coverage(real, generated, k=2) == 1
    assert coverage(real, line(12, 40), k=2) == 1 / 4  # within 9 of 10 only


def test_density_averages_one_for_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    densities = [density(rng.normal(size=(200, 4)), rng.normal(size=(200, 4)), k=5) for _ in range(20)]
    assert np.mean(densities) == pytest.approx(1, abs=0.03)


def test_coverage_of_equal_distributions_matches_its_closed_form() -> None:
    """Equation 6 of Naeem et al., for n = m."""
    n, k = 200, 3
    rng = np.random.default_rng(0)
    coverages = [coverage(rng.normal(size=(n, 4)), rng.normal(size=(n, 4)), k) for _ in range(20)]
    expected = 1 - np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    assert np.mean(coverages) == pytest.approx(expected, abs=0.01)


def test_outlier_raises_precision_but_hardly_density() -> None:
    rng = np.random.default_rng(0)
    real, far = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 8
    with_outlier = np.concatenate([real, [[30, 30]]])
    assert precision(real, far, k=5) < 0.05
    assert precision(with_outlier, far, k=5) > 0.95
    assert density(with_outlier, far, k=5) < 0.3
    assert coverage(with_outlier, far, k=5) < 0.05
