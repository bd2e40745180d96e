import itertools

import numpy as np
import pytest
import scipy.linalg

from finetune.evaluation import frechet
from finetune.evaluation.frechet import fid_infinity, frechet_distance, is_extrapolable, is_rank_deficient


def normal(seed: int, n: int, d: int) -> np.ndarray:
    """Correlated float32 features with a random mean."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + rng.normal(size=d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_distance_to_itself_is_zero(n: int, d: int) -> None:
    a = normal(0, n, d)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40), (8, 2048)])
def test_distance_of_a_shifted_set_is_the_squared_shift(n: int, d: int) -> None:
    a = normal(0, n, d).astype(np.float64)
    assert frechet_distance(a, a + 3) == pytest.approx(9 * d)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_distance_of_a_scaled_set_is_the_trace_times_the_squared_change(n: int, d: int) -> None:
    a = normal(0, n, d).astype(np.float64)
    centered = a - a.mean(axis=0)
    trace = centered.var(axis=0, ddof=1).sum()
    assert frechet_distance(centered, 3 * centered) == pytest.approx(4 * trace)


def test_distance_is_symmetric() -> None:
    a, b = normal(0, 300, 12), normal(1, 20, 12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


@pytest.mark.parametrize("d", [2, 4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("n", [2, 4, 16, 64, 256, 1024])
def test_distance_equals_the_matrix_square_root_at_any_size(n: int, d: int) -> None:
    """The reference itself is inaccurate for singular products, so the tolerance is larger there."""
    a, b = (np.random.default_rng(seed).random((n, d)) for seed in (1, 2))
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 0j)  # complex input: scipy versions differ otherwise
    gap = a.mean(axis=0) - b.mean(axis=0)
    expected = gap @ gap + np.trace(sum(covariances)) - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(expected, abs=5e-6 if n > d else 1e-3)


def test_slightly_negative_eigenvalue_does_not_give_nan() -> None:
    """With four images of four features, rounding makes the smallest eigenvalue of the product negative."""
    a, b = np.random.default_rng(1).random((2, 4, 4))
    assert 0 < frechet_distance(a, b) < 10


@pytest.mark.parametrize(("n", "d", "padding"), [(30, 4, (0, 60)), (300, 12, (3, 5))])
def test_constant_features_do_not_change_the_distance(n: int, d: int, padding: tuple[int, int]) -> None:
    a, b = normal(0, n, d), normal(1, n - 10, d)
    padded = [np.pad(x, ((0, 0), padding)) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_full_rank_needs_more_images_than_features() -> None:
    assert is_rank_deficient(images=64, features=64)
    assert not is_rank_deficient(images=65, features=64)


def nearly_flat(smallest: float, flat: int, n: int = 300, d: int = 80) -> list[np.ndarray]:
    """Two sets that hardly vary in `flat` directions, rotated so that no single feature is constant."""
    rng = np.random.default_rng(2)
    stds = np.arange(1.0, d + 1) ** -0.5
    stds[d - flat :] = smallest
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return [(rng.normal(size=(n, d)) * stds) @ rotation + shift for shift in (0, 0.1)]


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records each use of singular values."""
    used: list[str] = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *args, **kwargs: used.append("singular") or svd(*args, **kwargs))
    return used


@pytest.mark.parametrize(
    ("smallest", "flat", "method"),
    [(1.0, 0, []), (1e-2, 30, []), (1e-5, 30, ["singular"]), (1e-8, 30, ["singular"]), (0, 30, ["singular"])],
)
def test_singular_values_are_used_only_if_rounding_requires(
    smallest: float, flat: int, method: list[str], methods: list[str]
) -> None:
    frechet_distance(*nearly_flat(smallest, flat))
    assert methods == method


@pytest.mark.parametrize(
    ("smallest", "flat"), itertools.product([1e-1, 1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-8, 0], [1, 30])
)
def test_eigenvalues_and_singular_values_agree(
    smallest: float, flat: int, methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nearly_flat(smallest, flat)
    distances = frechet_distance(a, b), frechet_distance(b, a)
    monkeypatch.setattr(frechet, "TOLERANCE", -1)
    methods.clear()
    assert distances == pytest.approx([frechet_distance(a, b)] * 2, rel=1e-8)
    assert methods == ["singular"]


def test_tiny_distances_are_accurate() -> None:
    """The traces almost cancel, so rounding errors would show here first."""
    a, _ = nearly_flat(1.0, 0)
    assert frechet_distance(a, a * (1 + 1e-5)) == pytest.approx(a.var(axis=0, ddof=1).sum() * 1e-10, rel=1e-3)


def test_fid_infinity_removes_most_of_the_bias_of_the_sample_size() -> None:
    """The distance of equal distributions is 0, but that of a small sample is not, even to a large one."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5_000, 16))
    draws = [rng.normal(size=(200, 16)) for _ in range(10)]
    plain = np.mean([frechet_distance(draw, reference) for draw in draws])
    extrapolated = np.mean([fid_infinity(draw, reference, seed=0) for draw in draws])
    assert plain > 0.1
    assert abs(extrapolated) < plain / 4


def test_fid_infinity_keeps_a_true_distance() -> None:
    rng = np.random.default_rng(0)
    reference, shifted = rng.normal(size=(20_000, 8)), rng.normal(size=(2_000, 8)) + 1
    assert fid_infinity(shifted, reference, seed=0) == pytest.approx(8, rel=0.05)


def test_fid_infinity_depends_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    assert fid_infinity(a, b, seed=1) == fid_infinity(a, b, seed=1)
    assert fid_infinity(a, b, seed=1) != fid_infinity(a, b, seed=2)


def test_extrapolation_needs_four_times_as_many_images_as_features() -> None:
    assert is_extrapolable(images=8192, features=2048)
    assert not is_extrapolable(images=8191, features=2048)
