import itertools

import numpy as np
import pytest

from finetune import kid as module
from finetune.kid import kid


def normal(seed: int, n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def definition(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 4 of Binkowski et al. (2018), term by term."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(np.dot(x.astype(float), y.astype(float))) / len(x) + 1) ** 3

    pairs_a = [kernel(x, y) for x, y in itertools.permutations(a, 2)]
    pairs_b = [kernel(x, y) for x, y in itertools.permutations(b, 2)]
    across = [kernel(x, y) for x, y in itertools.product(a, b)]
    return float(np.mean(pairs_a) + np.mean(pairs_b) - 2 * np.mean(across))


@pytest.mark.parametrize("block", [3, 1024])
def test_equals_its_definition_however_the_kernel_is_cut(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    a, b = normal(0, 10), normal(1, 7) + 1
    assert kid(a, b) == pytest.approx(definition(a, b), rel=1e-9)


def test_is_zero_on_average_for_equal_distributions() -> None:
    estimates = [kid(normal(2 * i, 20), normal(2 * i + 1, 20)) for i in range(200)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(len(estimates))
    assert min(estimates) < 0


def test_grows_with_the_gap() -> None:
    a, b = normal(0, 50), normal(1, 50)
    assert kid(a, b) < kid(a, b + 0.5) < kid(a, b + 1)
