"""KID, CMMD and CLIPScore against definitions and hand-computed values."""

import itertools

import numpy as np
import pytest

from finetune.evaluation import mmd as module
from finetune.evaluation.mmd import clip_score, cmmd, kid


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
def test_kid_equals_its_definition_at_any_block_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    a, b = normal(0, 10), normal(1, 7) + 1
    assert kid(a, b) == pytest.approx(definition(a, b), rel=1e-9)


def test_kid_averages_zero_for_equal_distributions() -> None:
    estimates = [kid(normal(2 * i, 20), normal(2 * i + 1, 20)) for i in range(200)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(len(estimates))
    assert min(estimates) < 0


def test_kid_grows_with_the_shift() -> None:
    a, b = normal(0, 50), normal(1, 50)
    assert kid(a, b) < kid(a, b + 0.5) < kid(a, b + 1)


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    values = np.array(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_clip_score_is_100_times_the_mean_cosine_clipped_at_0() -> None:
    images, captions = unit((1, 0), (1, 0), (1, 0)), unit((3, 4), (1, 0), (-1, 0))
    assert clip_score(images, captions) == pytest.approx(100 * (0.6 + 1 + 0) / 3)


def test_cmmd_equals_a_hand_computed_value() -> None:
    """Equal vectors in each pair, squared distance 2 between pairs: 1000 (1 + 1 - 2 exp(-2 / 200))."""
    a, b = unit((1, 0), (1, 0)), unit((0, 1), (0, 1))
    assert cmmd(a, b) == pytest.approx(1000 * (2 - 2 * np.exp(-0.01)), rel=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)


def test_cmmd_averages_zero_for_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    sets = [unit(*rng.normal(size=(40, 4)).tolist()) for _ in range(40)]
    values = [cmmd(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)
