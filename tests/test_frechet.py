import numpy as np
import pytest
from cleanfid.fid import frechet_distance as cleanfid_distance

from finetune.frechet import frechet_distance, is_rank_deficient


def normal(seed: int, n: int, d: int) -> np.ndarray:
    """Correlated features with a mean of their own, float32 as an extractor's."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + rng.normal(size=d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
def test_a_set_is_at_distance_zero_from_itself(n: int, d: int) -> None:
    a = normal(0, n, d)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (5, 40)])
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


def test_features_that_are_always_zero_change_nothing_even_when_they_outnumber_the_images() -> None:
    a, b = normal(0, 30, 4), normal(1, 20, 4)
    padded = [np.pad(x, ((0, 0), (0, 60))) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_rank_is_full_only_with_more_images_than_features() -> None:
    assert is_rank_deficient(images=64, features=64)
    assert not is_rank_deficient(images=65, features=64)
