import itertools

import numpy as np
import pytest
import scipy.linalg
from cleanfid.fid import frechet_distance as cleanfid_distance

from finetune.evaluation import frechet
from finetune.evaluation.frechet import fid_infinity, frechet_distance, is_extrapolable, is_rank_deficient


def normal(seed: int, n: int, d: int) -> np.ndarray:
    """Correlated features with a mean of their own, float32 as an extractor's."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + rng.normal(size=d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_a_set_is_at_distance_zero_from_itself(n: int, d: int) -> None:
    a = normal(0, n, d)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40), (8, 2048)])
def test_a_shifted_set_is_at_the_square_of_the_shift(n: int, d: int) -> None:
    a = normal(0, n, d).astype(np.float64)
    assert frechet_distance(a, a + 3) == pytest.approx(9 * d)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_a_stretched_set_is_at_the_trace_times_the_square_of_the_stretch_less_one(n: int, d: int) -> None:
    a = normal(0, n, d).astype(np.float64)
    centered = a - a.mean(axis=0)
    trace = centered.var(axis=0, ddof=1).sum()
    assert frechet_distance(centered, 3 * centered) == pytest.approx(4 * trace)


def test_the_two_sets_may_change_places() -> None:
    a, b = normal(0, 300, 12), normal(1, 20, 12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_equals_clean_fid_at_full_rank() -> None:
    a, b = normal(0, 500, 48), normal(1, 400, 48)
    moments = [m for x in (a, b) for m in (x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b) == pytest.approx(cleanfid_distance(*moments), rel=1e-6)


@pytest.mark.parametrize("d", [2, 4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("n", [2, 4, 16, 64, 256, 1024])
def test_equals_the_square_root_of_the_product_at_any_size(n: int, d: int) -> None:
    """To five places where the product is regular; where it is singular its root is not to be had so exactly."""
    a, b = (np.random.default_rng(seed).random((n, d)) for seed in (1, 2))
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 0j)  # complex from the start: one form in each version
    gap = a.mean(axis=0) - b.mean(axis=0)
    expected = gap @ gap + np.trace(sum(covariances)) - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(expected, abs=5e-6 if n > d else 1e-3)


def test_four_pictures_of_four_features_are_no_nan() -> None:
    """The product's least eigenvalue is below zero by rounding here, and a plain root of it no number."""
    a, b = np.random.default_rng(1).random((2, 4, 4))
    assert 0 < frechet_distance(a, b) < 10


def test_features_that_are_always_zero_change_nothing_even_when_they_outnumber_the_images() -> None:
    a, b = normal(0, 30, 4), normal(1, 20, 4)
    padded = [np.pad(x, ((0, 0), (0, 60))) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_rank_is_full_only_with_more_images_than_features() -> None:
    assert is_rank_deficient(images=64, features=64)
    assert not is_rank_deficient(images=65, features=64)


def nearly_flat(least: float, dead: int, n: int = 300, d: int = 80) -> list[np.ndarray]:
    """Two sets with `dead` directions, of no feature alone, in which they hardly vary."""
    rng = np.random.default_rng(2)
    deviations = np.arange(1.0, d + 1) ** -0.5
    deviations[d - dead :] = least
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return [(rng.normal(size=(n, d)) * deviations) @ rotation + shift for shift in (0, 0.1)]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How distances are found from here on."""
    taken: list[str] = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *args, **kwargs: taken.append("singular") or svd(*args, **kwargs))
    return taken


@pytest.mark.parametrize(
    ("least", "dead", "way"),
    [(1.0, 0, []), (1e-2, 30, []), (1e-5, 30, ["singular"]), (1e-8, 30, ["singular"]), (0, 30, ["singular"])],
)
def test_eigenvalues_serve_where_rounding_allows_and_singular_values_elsewhere(
    least: float, dead: int, way: list[str], ways: list[str]
) -> None:
    frechet_distance(*nearly_flat(least, dead))
    assert ways == way


@pytest.mark.parametrize(
    ("least", "dead"), itertools.product([1e-1, 1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-8, 0], [1, 30])
)
def test_both_ways_agree_on_each_side_of_the_switch(
    least: float, dead: int, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nearly_flat(least, dead)
    distances = frechet_distance(a, b), frechet_distance(b, a)
    monkeypatch.setattr(frechet, "TOLERANCE", -1)
    ways.clear()
    assert distances == pytest.approx([frechet_distance(a, b)] * 2, rel=1e-8)
    assert ways == ["singular"]


def test_sets_that_are_nearly_the_same_are_told_apart() -> None:
    """The traces cancel: what is left of them is where rounding shows first."""
    a, _ = nearly_flat(1.0, 0)
    assert frechet_distance(a, a * (1 + 1e-5)) == pytest.approx(a.var(axis=0, ddof=1).sum() * 1e-10, rel=1e-3)


def test_a_feature_that_is_always_zero_changes_nothing_at_full_rank() -> None:
    a, b = normal(0, 300, 12), normal(1, 200, 12)
    padded = [np.pad(x, ((0, 0), (3, 5))) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_removes_most_of_the_bias_that_the_generated_set_s_size_adds() -> None:
    """Equal distributions are at distance 0; a small sample of one is not, however large the other is."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5_000, 16))
    draws = [rng.normal(size=(200, 16)) for _ in range(10)]
    plain = np.mean([frechet_distance(draw, reference) for draw in draws])
    extrapolated = np.mean([fid_infinity(draw, reference, seed=0) for draw in draws])
    assert plain > 0.1
    assert abs(extrapolated) < plain / 4


def test_a_true_distance_stays() -> None:
    rng = np.random.default_rng(0)
    reference, shifted = rng.normal(size=(20_000, 8)), rng.normal(size=(2_000, 8)) + 1
    assert fid_infinity(shifted, reference, seed=0) == pytest.approx(8, rel=0.05)


def test_the_seed_alone_draws_the_subsets() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    assert fid_infinity(a, b, seed=1) == fid_infinity(a, b, seed=1)
    assert fid_infinity(a, b, seed=1) != fid_infinity(a, b, seed=2)


def test_needs_four_times_as_many_images_as_features() -> None:
    assert is_extrapolable(images=8192, features=2048)
    assert not is_extrapolable(images=8191, features=2048)
