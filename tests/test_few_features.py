"""The demonstration of docs/evaluation.md: a distance under 1 comes from 64 features, not from good pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import InputError
from sample.few_features import FEWEST, distances, read_pictures


def write_pictures(folder: Path, count: int) -> Path:
    """Rectangles on gradients, all in the muted colors of photographs."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        picture = np.linspace(rng.integers(64, 192, 3), rng.integers(64, 192, 3), 256)[:, None].repeat(256, axis=1)
        x, y = rng.integers(20, 120, 2)
        picture[y : y + 100, x : x + 100] = rng.integers(64, 192, 3)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_the_same_pictures_are_under_1_with_64_features_and_in_the_tens_with_1280(tmp_path: Path) -> None:
    table = distances(read_pictures(write_pictures(tmp_path / "pictures", FEWEST)))
    few, many = table["other real pictures"]
    assert few < 1
    assert many > 10


def test_pictures_are_read_as_squares_and_the_rest_is_left_out(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", FEWEST)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").touch()
    pictures = read_pictures(folder)
    assert [picture.shape for picture in pictures] == [(256, 256, 3)] * FEWEST


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="15 pictures of at least 128 pixels a side, but 16 are needed"):
        read_pictures(write_pictures(tmp_path / "pictures", 15))
