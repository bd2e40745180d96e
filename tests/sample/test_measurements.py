"""What docs/attention.md says of the sample's model is what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.datasets.scenes.world import Combination
from finetune.errors import InputError
from sample.attention_measures import FIGURE, LOG, concentration, elsewhere, reduced, table
from sample.early_features import FEWEST, distances, read_images


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(LOG.read_text())
    return content


def test_attention_finds_subject_and_outfit_in_most_unseen_scenes(log: dict[str, Any]) -> None:
    attention = log["attention"]
    for field in ("subject", "outfit"):
        assert attention["concentration"][field] > 1.5
        assert attention["AUC"][field] > 0.8
        assert attention["above chance"][field] > 0.9 * log["scenes"]


def test_an_edit_keeps_more_of_the_image_than_a_second_prompt(log: dict[str, Any]) -> None:
    edits = log["edits"]
    assert edits["difference elsewhere"]["edit"] < edits["difference elsewhere"]["second prompt"]
    assert edits["closer"]["edit"] > 2 * edits["closer"]["second prompt"]
    assert edits["only the animal is new"]["edit"] > 0.5


def test_the_page_quotes_the_log(log: dict[str, Any]) -> None:
    page = (Path("docs") / "attention.md").read_text()
    assert table(log["attention"]) in page
    assert table(log["edits"]) in page
    assert f"All {log['scenes']} unseen combinations" in page
    assert f"({FIGURE.name})" in page


def test_a_table_has_a_row_per_measure() -> None:
    rows = {"AUC": {"subject": 0.9, "outfit": 1.0}, "closer": {"subject": 3, "outfit": 12}}
    assert table(rows).splitlines() == [
        "|  | subject | outfit |",
        "| --- | --- | --- |",
        "| AUC | 0.9 | 1 |",
        "| closer | 3 | 12 |",
    ]


def test_concentration_is_the_attention_on_the_mask_over_the_average() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    small = reduced(mask, 2)
    assert small.tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    attention = np.ones((4, 4), np.float32)
    assert concentration(attention, small) == 1
    assert concentration(np.where(small, 3, 1).astype(np.float32), small) == 2


def test_neither_animal_reaches_elsewhere() -> None:
    lion = Combination("lion", "business suit", "standing", "stage")
    mask = elsewhere(lion, lion._replace(subject="rabbit"))
    assert mask[0].all()
    assert mask[300, 256]  # the suit
    assert not mask[160, 256]  # the head
    assert (mask != mask[:, ::-1]).mean() < 0.01


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
