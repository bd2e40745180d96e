import numpy as np
import pytest

from finetune.fid_infinity import fid_infinity, is_extrapolable
from finetune.frechet import frechet_distance


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
