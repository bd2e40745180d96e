"""Predicted bytes and CPU time of the data stages."""

import json
from pathlib import Path

import pytest

from finetune.planning.costs import Cost, DataCosts
from finetune.planning.counts import ImageCounts

SECONDS = {
    "preprocess train": 0.5,
    "preprocess validation": 1.5,
    "tokenize": 0.25,
    "read": 0.125,
    "lossless": 2.0,
    "resize": 1.0,
}
KIND = {"bytes": {"train": 100, "validation": 1000, "index": 10, "tokens": 7}, "seconds": SECONDS}
IMAGES = ImageCounts(train=8, validation=2, kind="photos", source="publisher")


@pytest.fixture
def costs(tmp_path: Path) -> DataCosts:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"photos": KIND, "scenes": KIND, "machine": {"cpu": "one"}}))
    return DataCosts(file)


def test_preprocess_cost_depends_on_the_split(costs: DataCosts) -> None:
    assert costs.preprocess(IMAGES) == Cost(8 * 100 + 2 * 1000 + 10 * 10, 8 * 0.5 + 2 * 1.5)


def test_tokenize_cost_grows_with_the_number_of_images(costs: DataCosts) -> None:
    assert costs.tokenize(IMAGES) == Cost(10 * 7, 10 * 0.25)


def test_latents_store_fp16_mean_and_std_of_images_and_of_mirrored_training_images(costs: DataCosts) -> None:
    assert costs.latents(IMAGES, (4, 64, 64)) == Cost((2 * 8 + 2) * 65_536, 10 * 0.125)


def test_generated_images_cost_as_much_as_validation_images(costs: DataCosts) -> None:
    assert costs.generated(IMAGES, 3) == Cost(3 * 1000, 3 * 2.0)


def test_features_are_float32_and_cost_reading_and_resizing(costs: DataCosts) -> None:
    assert costs.features(IMAGES, 4, 16) == Cost(4 * 16 * 4, 4 * 1.125)


def test_archive_size_is_estimated_for_scenes_only(costs: DataCosts) -> None:
    assert costs.archives(IMAGES) == 0
    assert costs.archives(ImageCounts(8, 2, "scenes", "location")) == 2900
