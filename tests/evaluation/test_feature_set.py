import numpy as np
import pytest

from finetune.evaluation.feature_set import random_half_splits
from finetune.evaluation.mmd import kid


def normal(seed: int, n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_halves_have_distinct_positions_and_round_up() -> None:
    for first, second in random_half_splits(10, 0, 8, 5):
        assert len({*first.tolist()}) == 4
        assert {*first.tolist()} <= {*range(8)}
        assert len({*second.tolist()}) == 3


def test_seed_determines_the_halves() -> None:
    first, again, other = ([half.tolist() for (half,) in random_half_splits(3, seed, 20)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_more_resamples_keep_the_first_ones() -> None:
    short, long = ([half.tolist() for (half,) in random_half_splits(resamples, 0, 20)] for resamples in (2, 5))
    assert long[:2] == short


def test_std_over_halves_is_that_of_the_mean_of_full_samples() -> None:
    values = normal(0, 400, 1)[:, 0]
    estimated = np.std([values[half].mean() for (half,) in random_half_splits(500, 0, 400)])
    assert estimated == pytest.approx(values.std() / np.sqrt(400), rel=0.1)


def test_std_over_halves_is_that_of_kid_of_full_samples() -> None:
    truth = np.std([kid(normal(2 * i, 60), normal(2 * i + 1, 60) + 0.5) for i in range(200)])
    estimated = []
    for i in range(10):
        a, b = normal(2 * i, 60), normal(2 * i + 1, 60) + 0.5
        estimated.append(np.std([kid(a[j], b[k]) for j, k in random_half_splits(50, i, 60, 60)]))
    assert np.mean(estimated) == pytest.approx(truth, rel=0.25)
