"""What docs/attention.md says of the sample's model is what was measured, and no accident."""

import json
from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import InputError
from sample.attention_measures import LOG, by_chance
from sample.early_features import FEWEST, distances, read_images

LOGGED = json.loads(LOG.read_text())


def test_a_sign_test_adds_up_the_outcomes_that_are_as_good() -> None:
    assert by_chance(3, 0) == 1 / 8
    assert by_chance(2, 1) == (comb(3, 2) + 1) / 8
    assert by_chance(0, 5) == 1


def test_another_color_keeps_its_place_more_often_as_an_edit_than_by_a_second_prompt() -> None:
    figures = LOGGED["another_color"]
    assert figures["edit_nearer"] > figures["edit_further"]
    assert figures["by_chance"] == pytest.approx(by_chance(figures["edit_nearer"], figures["edit_further"]), rel=0.05)
    assert figures["by_chance"] < 0.01
    assert figures["overlap_edited"]["mean"] > figures["overlap_plainly"]["mean"]
    assert figures["new_color_edited"]["min"] > 0.9


def test_the_page_quotes_the_log() -> None:
    page = " ".join((Path("docs") / "attention.md").read_text().split())
    figures, looks, count = (
        LOGGED["another_color"],
        LOGGED["attention_on_the_object_over_the_average"],
        LOGGED["scenes"],
    )
    shape, color = looks["shape"], looks["color"]
    for quoted in (
        f"the shape's word {shape['mean']:.1f} times",
        f"mean of {count}; {shape['above_1']} are above 1",
        f"the largest {shape['max']:.1f}, the smallest {shape['min']:.1f}",
        f"the color's word it is {color['mean']:.1f}, and {color['above_1']} of {count} are above 1",
        f"in {figures['edit_nearer']}, and less in {figures['edit_further']}",
        f"a probability of {figures['by_chance']}",
        f"{figures['overlap_edited']['mean']:.3f} and {figures['overlap_plainly']['mean']:.3f} on average",
        f"on {figures['new_color_edited']['mean']:.1%} of the objects' pixels",
    ):
        assert quoted in page


def write_images(folder: Path, count: int) -> Path:
    """Rectangles on gradients, all in the muted colors of photos."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        image = np.linspace(rng.integers(64, 192, 3), rng.integers(64, 192, 3), 256)[:, None].repeat(256, axis=1)
        x, y = rng.integers(20, 120, 2)
        image[y : y + 100, x : x + 100] = rng.integers(64, 192, 3)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_a_distance_is_below_1_with_64_features_and_in_the_tens_with_1280(tmp_path: Path) -> None:
    table = distances(read_images(write_images(tmp_path / "images", FEWEST)))
    few, many = table["other real images"]
    assert few < 1
    assert many > 10


def test_images_are_cropped_to_squares_and_other_files_are_skipped(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", FEWEST)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").touch()
    images = read_images(folder)
    assert [image.shape for image in images] == [(256, 256, 3)] * FEWEST


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="15 images of at least 128 pixels a side, but 16 are needed"):
        read_images(write_images(tmp_path / "images", 15))
