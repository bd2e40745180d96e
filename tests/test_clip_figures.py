"""CLIPScore and CMMD against values computed by hand."""

import numpy as np
import pytest

from finetune.clip_figures import clip_score, cmmd


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    values = np.array(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_clip_score_is_a_hundred_times_the_mean_cosine_and_never_negative() -> None:
    pictures, captions = unit((1, 0), (1, 0), (1, 0)), unit((3, 4), (1, 0), (-1, 0))
    assert clip_score(pictures, captions) == pytest.approx(100 * (0.6 + 1 + 0) / 3)


def test_cmmd_of_two_pairs_by_hand() -> None:
    """Within a pair all is equal; between them the squared distance is 2: 1000 (1 + 1 - 2 exp(-2 / 200))."""
    a, b = unit((1, 0), (1, 0)), unit((0, 1), (0, 1))
    assert cmmd(a, b) == pytest.approx(1000 * (2 - 2 * np.exp(-0.01)), rel=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)


def test_cmmd_is_0_on_average_for_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    sets = [unit(*rng.normal(size=(40, 4)).tolist()) for _ in range(40)]
    values = [cmmd(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)
