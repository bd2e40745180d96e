import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.datasets.scenes.canvas import SIZE, Canvas, Placement, smooth
from finetune.datasets.scenes.drawing import draw, masks
from finetune.datasets.scenes.world import (
    CATEGORIES,
    OUTFITS,
    PEOPLE,
    PLACES,
    POSES,
    Combination,
    Scene,
    World,
    make_scene,
)

SCENES = [make_scene(seed, world) for world in ("plain", "new", "unseen") for seed in range(12)]
LION = Combination("lion", "business suit", "standing", "blue wall")


def pixels(combination: Combination, place: Placement = Placement()) -> NDArray[np.int16]:  # noqa: B008 (frozen)
    return np.asarray(draw(Scene(combination, place))).astype(np.int16)


def difference(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """Share of the pixels that differ visibly."""
    return float((np.abs(one - other).max(-1) > 16).mean())


def test_an_image_is_a_function_of_its_scene() -> None:
    scene = SCENES[0]
    assert draw(scene).size == (SIZE, SIZE)
    assert draw(scene).mode == "RGB"
    assert draw(scene).tobytes() == draw(scene).tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_a_mirrored_scene_is_the_mirror_image(seed: int) -> None:
    scene = make_scene(seed, "new")
    place = dataclasses.replace(scene.place, dx=-scene.place.dx, mirrored=not scene.place.mirrored)
    image, mirrored = pixels(scene.combination, scene.place), pixels(scene.combination, place)
    shown = np.any(list(masks(scene).values()), axis=0)
    inner = shown & np.roll(shown, 3, 0) & np.roll(shown, -3, 0) & np.roll(shown, 3, 1) & np.roll(shown, -3, 1)
    # highlights in the eyes stay on one side of both
    assert (np.abs(image - mirrored[:, ::-1]).max(-1) > 40)[inner].mean() < 0.03


@pytest.mark.parametrize(
    "changed",
    [
        *(LION._replace(subject=subject) for subject in ("cat", "fox", "bear", "rabbit", "panda", *PEOPLE)),
        *(LION._replace(outfit=outfit) for outfit in OUTFITS[1:]),
        *(LION._replace(pose=pose) for pose in POSES[1:]),
        *(LION._replace(background=place) for place in list(PLACES)[1:]),
        LION._replace(outfit=None),
    ],
    ids=str,
)
def test_every_attribute_shows(changed: Combination) -> None:
    assert difference(pixels(LION), pixels(changed)) > 0.03


def test_a_figure_contrasts_with_every_background() -> None:
    for subject in ("panda", "rabbit", "cat"):
        for background in PLACES:
            scene = Scene(Combination(subject, None, "sitting", background), Placement())
            body = masks(scene)[subject]
            image = pixels(scene.combination)
            behind = np.median(image[20:380][~body[20:380]], axis=0)
            assert np.median(np.abs(image[body] - behind).sum(-1)) > 60


def test_masks_hold_the_subject_and_its_outfit() -> None:
    for scene in SCENES:
        found = masks(scene)
        assert set(found) == {scene.combination.subject, scene.combination.outfit} - {None}
        assert set(found) <= set(CATEGORIES)
        assert all(mask.shape == (SIZE, SIZE) and mask.mean() > 0.02 for mask in found.values())


def test_masks_do_not_overlap_and_cover_the_figure() -> None:
    scene = Scene(LION, Placement())
    found = masks(scene)
    assert not (found["lion"] & found["business suit"]).any()
    without = pixels(LION._replace(subject="boy"))
    changed = np.abs(pixels(LION) - without).max(-1) > 40
    outside = ~(found["lion"] | np.any(list(masks(Scene(LION._replace(subject="boy"), Placement())).values()), axis=0))
    assert (changed & outside).mean() < 0.002


def test_masks_follow_what_is_visible() -> None:
    canvas = Canvas()
    with canvas.part("behind"):
        canvas.circle((0, 300), 50, (255, 0, 0))
    with canvas.part("in front"):
        canvas.circle((0, 300), 20, (0, 255, 0))
    found = canvas.masks()
    assert found["behind"].sum() == pytest.approx(np.pi * (50**2 - 20**2), rel=0.03)
    assert found["in front"].sum() == pytest.approx(np.pi * 20**2, rel=0.03)


def test_a_hidden_part_has_no_mask() -> None:
    canvas = Canvas()
    with canvas.part("behind"):
        canvas.circle((0, 300), 20, (255, 0, 0))
    with canvas.part("in front"):
        canvas.circle((0, 300), 50, (0, 255, 0))
    assert set(canvas.masks()) == {"in front"}


def test_shapes_are_cut_off_at_the_polygon_they_are_drawn_inside() -> None:
    canvas = Canvas()
    with canvas.part("circle"), canvas.inside([(-20, 280), (20, 280), (20, 320), (-20, 320)]):
        canvas.circle((0, 300), 100, (255, 0, 0))
    assert canvas.masks()["circle"].sum() == pytest.approx(40 * 40, rel=0.06)


def test_a_smooth_curve_goes_through_its_points() -> None:
    points = [(0.0, 0.0), (10.0, 5.0), (20.0, 0.0)]
    assert set(points) <= set(smooth(points, closed=False))


@pytest.mark.parametrize("world", ["plain", "new", "unseen"])
def test_no_figure_is_cut_off_at_the_edge(world: World) -> None:
    for seed in range(40):
        shown = np.any(list(masks(make_scene(seed, world)).values()), axis=0)
        assert not shown[[0, -1]].any()
        assert not shown[:, [0, -1]].any()
