import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from finetune.datasets.outlines import outlines
from finetune.datasets.scenes.drawing import masks
from finetune.datasets.scenes.world import World, make_scene


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    image = Image.new("L", mask.shape[::-1])
    for outline in outlines(mask):
        ImageDraw.Draw(image).polygon(outline, fill=255)
    return np.asarray(image) > 127


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def ellipse(*box: int) -> NDArray[np.bool_]:
    image = Image.new("1", (200, 150))
    ImageDraw.Draw(image).ellipse(box, fill=1)
    return np.array(image)


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:23] = True
    assert [sorted(loop) for loop in outlines(mask)] == [[(3, 5), (3, 15), (23, 5), (23, 15)]]


def test_pieces_have_outlines_of_their_own() -> None:
    mask = ellipse(10, 10, 60, 60) | ellipse(100, 40, 180, 120)
    assert len(outlines(mask)) == 2
    assert overlap(filled(mask), mask) > 0.95


def test_a_hole_stays_one() -> None:
    mask = ellipse(10, 10, 140, 140) & ~ellipse(50, 50, 100, 100)
    assert len(outlines(mask)) == 1
    assert not filled(mask)[75, 75]
    assert overlap(filled(mask), mask) > 0.95


def test_a_mask_may_touch_the_edge() -> None:
    mask = np.ones((20, 30), bool)
    assert overlap(filled(mask), mask) == 1


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((20, 30), bool)) == []


@pytest.mark.parametrize("world", ["plain", "new"])
def test_outlines_of_drawn_parts_cover_their_masks(world: World) -> None:
    for seed in range(6):
        for mask in masks(make_scene(seed, world)).values():
            assert overlap(filled(mask), mask) > 0.96
            assert sum(map(len, outlines(mask))) < 500
