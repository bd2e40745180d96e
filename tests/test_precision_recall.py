import numpy as np
import pytest

from finetune.precision_recall import precision, recall


def line(*points: float) -> np.ndarray:
    return np.array(points, np.float32)[:, None]


def test_by_hand() -> None:
    """Real neighborhoods at k = 1: [-1, 1], [0, 2] and [6, 14] around 0, 1 and 10 with radii 1, 1 and 9."""
    real, generated = line(0, 1, 10), line(2, 20, 30)
    assert precision(real, generated, k=1) == pytest.approx(1 / 3)  # 2 is within 1 of 1; 20 and 30 are out
    # generated radii: 18, 10, 10; 0, 1 and 10 lie within 18 of 2
    assert recall(real, generated, k=1) == 1


def test_equal_sets_have_both() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision(points, points, k=3) == recall(points, points, k=3) == 1


def test_sets_far_apart_have_neither() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision(points, points + 100, k=3) == recall(points, points + 100, k=3) == 0


def test_drawing_a_part_of_the_truth_costs_recall_and_not_precision() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) / 10
    assert precision(wide, narrow, k=3) > 0.95
    assert recall(wide, narrow, k=3) < 0.3


def test_drawing_more_than_the_truth_costs_precision_and_not_recall() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) / 10
    assert precision(narrow, wide, k=3) < 0.3
    assert recall(narrow, wide, k=3) > 0.95
