import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from finetune.datasets.scenes import (
    BACKGROUNDS,
    CATEGORIES,
    COLORS,
    COUNTS,
    FLOOR,
    SHAPES,
    SIZE,
    WORDINGS,
    Scene,
    Style,
    captions,
    draw,
    draw_mask,
    make_scene,
    outline,
)

STYLES: tuple[Style, ...] = ("plain", "striped")
SCENES = [make_scene(seed, style) for style in STYLES for seed in range(60)]


def one(shape: str, style: Style = "plain", color: str = "red", background: str = "white") -> Scene:
    return Scene(style, shape, color, background, ((256.0, 256.0),), 100.0, 340.0)


def share(image: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(image) == color).all(-1).mean())


def test_a_seed_determines_its_scene() -> None:
    assert make_scene(5, "plain") == make_scene(5, "plain")
    assert len(set(SCENES)) == len(SCENES)


def test_seeds_cover_every_shape_color_background_and_count() -> None:
    assert {scene.shape for scene in SCENES} == set(CATEGORIES)
    assert {scene.color for scene in SCENES} == set(COLORS)
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.count for scene in SCENES} == {1, 2, 3}


def test_the_styles_share_no_shape() -> None:
    assert not set(SHAPES["plain"]) & set(SHAPES["striped"])


def test_captions_mention_count_color_shape_and_background() -> None:
    for scene in SCENES:
        texts = captions(scene)
        assert len(set(texts)) == len(WORDINGS[scene.style]) == 5
        noun = scene.shape if scene.count == 1 else f"{scene.shape}s"
        for text in texts:
            assert all(word in text.split() for word in (COUNTS[scene.count - 1], scene.color, noun, scene.background))
            assert ("striped" in text) == (scene.style == "striped")


def test_captions_hold_for_the_mirror_image() -> None:
    for scene in SCENES:
        mirrored = dataclasses.replace(scene, centers=tuple((SIZE - x, y) for x, y in reversed(scene.centers)))
        assert captions(mirrored) == captions(scene)
        assert not re.search(r"\b(left|right|west|east|next)\b", " ".join(captions(scene)))


def test_images_are_512x512_and_reproducible() -> None:
    for scene in (SCENES[0], SCENES[-1]):
        image = draw(scene)
        assert (image.mode, image.size) == ("RGB", (512, 512))
        assert image.tobytes() == draw(scene).tobytes()


def test_a_plain_scene_has_flat_objects_on_one_background() -> None:
    for shape in SHAPES["plain"]:
        image = draw(one(shape, color="blue", background="pink"))
        assert share(image, COLORS["blue"]) == pytest.approx(np.mean(np.asarray(draw_mask(one(shape)))) / 255, abs=0.01)
        assert share(image, COLORS["blue"]) + share(image, BACKGROUNDS["pink"]) > 0.98


def test_a_striped_scene_has_stripes_and_a_floor() -> None:
    for shape in SHAPES["striped"]:
        image = draw(one(shape, "striped", "green", "grey"))
        tint = tuple(round(0.4 * c + 0.6 * 255) for c in COLORS["green"])
        for color, least in (
            (COLORS["green"], 0.02),
            (tint, 0.02),
            (FLOOR, 0.2),
            (BACKGROUNDS["grey"], 0.3),
        ):
            assert share(image, color) > least, (shape, color)


def test_the_mask_covers_each_object_once() -> None:
    for scene in SCENES:
        alone = [dataclasses.replace(scene, centers=(center,)) for center in scene.centers]
        areas = [np.count_nonzero(np.asarray(draw_mask(scene))) for scene in alone]
        union = np.count_nonzero(np.asarray(draw_mask(scene)))
        assert union == sum(areas), "objects overlap and cannot be counted"
        assert min(areas) > 0.005 * SIZE**2


def test_a_ring_has_a_hole_and_a_star_has_none() -> None:
    assert draw_mask(one("ring")).getpixel((256, 256)) == 0
    assert draw_mask(one("ring")).getpixel((256 + 75, 256)) == 255
    assert draw_mask(one("star")).getpixel((256, 256)) == 255


def test_an_unknown_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown shape 'cube'"):
        outline("cube", (0.0, 0.0), 1.0)
