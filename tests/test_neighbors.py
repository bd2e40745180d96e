import numpy as np
import pytest

from finetune import neighbors
from finetune.neighbors import squared_distances, squared_radii

LINE = np.array([[0], [1], [3], [7]], np.float32)


def test_a_radius_reaches_to_the_k_th_nearest_other_point() -> None:
    assert squared_radii(LINE, 1).tolist() == [1, 1, 4, 16]
    assert squared_radii(LINE, 2).tolist() == [9, 4, 9, 36]


def test_equal_points_are_each_other_s_neighbors() -> None:
    assert squared_radii(np.array([[2], [2], [5]], np.float32), 1).tolist() == [0, 0, 9]


@pytest.mark.parametrize("block", [2, 1024])
def test_distances_are_the_same_however_they_are_cut(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", block)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    expected = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    assert np.concatenate(list(squared_distances(a, b))) == pytest.approx(expected)
