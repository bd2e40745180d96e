import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.artifacts import write_json
from finetune.data.card import data_card
from stages.datacard import datacard
from tests.builders.image_sets import folders, write_token_table


@pytest.fixture
def card_images(tmp_path: Path, images: Path) -> Path:
    """Image folders with the dropped.json of preprocess-512."""
    copy = shutil.copytree(images, tmp_path / "images")
    for folder in folders(copy).values():
        write_json(folder / "dropped.json", {"kept": 0, "dropped": {"too_small": ["x"], "no_image": ["y", "z"]}})
    return copy


@pytest.fixture
def tokens(tmp_path: Path, card_images: Path) -> Path:
    """Outputs of tokenize, which dropped one training image of COCO."""
    tokens = tmp_path / "tokens"
    write_token_table(tokens, folders(card_images), excluded={"coco-train-0"})
    write_json(tokens / "dropped.json", {"like_validation": ["coco/coco-train-0"], "no_caption": []})
    write_json(tokens / "manifest.json", {"truncated": 3})
    return tokens


def run(card_images: Path, tokens: Path) -> Path:
    output = tokens.with_name("data")
    datacard(folders(card_images), tokens, output)
    return output


def test_numbers_add_up_from_archives_to_training(card_images: Path, tokens: Path) -> None:
    numbers = json.loads((run(card_images, tokens) / "numbers.json").read_text())
    coco = numbers["datasets"]["coco"]
    assert numbers["truncated"] == 3
    assert coco["used"] == {"train": 15, "validation": 8}
    assert (coco["dropped"], coco["dropped_by_tokenize"]) == ({"too_small": 1, "no_image": 2}, {"like_validation": 1})
    assert coco["images"]["count"] == coco["used"]["train"] + coco["used"]["validation"] + 1


def test_the_card_accounts_for_every_image(card_images: Path, tokens: Path) -> None:
    card = (run(card_images, tokens) / "card.md").read_text()
    for line in (
        "| in the archives | 25 | 13 | 38 |",
        "| - `too_small` | 1 | 1 | 2 |",
        "| usable at 512x512 | 24 | 12 | 36 |",
        "| - `like_validation` | 1 | 0 | 1 |",
        "| - validation images | 8 | 4 | 12 |",
        "| **training images** | 15 | 8 | 23 |",
        "archives lack: 2 in coco, 2 in flickr8k.",
        "77 tokens: 3 of the captions used.",
    ):
        assert line in card
    assert "126,090" not in card, "only for the official archives"


def test_the_published_count_is_explained_for_the_official_archives() -> None:
    card = data_card(
        {"truncated": 0, "datasets": {"a": official(123_200, 87, 118_200), "b": official(8_000, 91, 6_000)}}
    )
    assert "counts 126,090 training images" in card
    assert "This run trains\non 124,200" in card


def official(usable: int, too_small: int, train: int) -> dict[str, Any]:
    spread = dict.fromkeys(("min", "mean", "max", "p05", "p25", "p50", "p75", "p95"), 1.0)
    images = {"count": usable, "shorter_side": spread, "aspect_ratio": spread, "enlarged": 1.0}
    captions = {"count": 1, "used": 1, "per_image": {"1": 1}, "words": spread, "vocabulary": 1, "words_seen_once": 1}
    return {
        "used": {"train": train, "validation": usable - train},
        "images": images | {"landscape": 1.0, "portrait": 0.0, "square": 0.0},
        "captions": captions | {"frequent_words": {"star": 1}},
        "dropped": {"too_small": too_small},
        "dropped_by_tokenize": {},
    }


def test_the_contact_sheet_shows_training_images(card_images: Path, tokens: Path) -> None:
    with Image.open(run(card_images, tokens) / "contact.png") as sheet:
        assert sheet.width > 8 * 192
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 8


def test_equal_inputs_give_equal_bytes(card_images: Path, tokens: Path) -> None:
    first = {path.name: path.read_bytes() for path in run(card_images, tokens).iterdir()}
    assert first.keys() == {"card.md", "contact.png", "numbers.json"}
    assert {path.name: path.read_bytes() for path in run(card_images, tokens).iterdir()} == first


def test_a_table_of_different_images_is_an_error(card_images: Path, tokens: Path) -> None:
    other = tokens.with_name("other")
    write_token_table(other, {"coco": card_images / "coco"})
    (other / "images.parquet").replace(tokens / "images.parquet")
    with pytest.raises(ValueError, match="shorter"):
        run(card_images, tokens)
    assert not tokens.with_name("data").exists()
