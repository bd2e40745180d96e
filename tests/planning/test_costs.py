"""Bytes and core time of the data stages, from a measurement."""

import json
from pathlib import Path

import pytest

from finetune.planning.costs import Cost, DataCosts
from finetune.planning.counts import Images

SECONDS = {
    "preprocess train": 0.5,
    "preprocess validation": 1.5,
    "tokenize": 0.25,
    "read": 0.125,
    "png": 2.0,
    "resize": 1.0,
}
KIND = {"bytes": {"train": 100, "validation": 1000, "index": 10, "tokens": 7}, "seconds": SECONDS}
IMAGES = Images(train=8, validation=2, kind="photos", told_by="publisher")


@pytest.fixture
def costs(tmp_path: Path) -> DataCosts:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"photos": KIND, "scenes": KIND, "machine": {"cpu": "one"}}))
    return DataCosts(file)


def test_each_split_takes_its_own_bytes_and_time(costs: DataCosts) -> None:
    assert costs.preprocess(IMAGES) == Cost(8 * 100 + 2 * 1000 + 10 * 10, 8 * 0.5 + 2 * 1.5)


def test_captions_take_their_ids(costs: DataCosts) -> None:
    assert costs.tokenize(IMAGES) == Cost(10 * 7, 10 * 0.25)


def test_latents_are_two_views_of_a_mean_and_a_deviation_in_two_bytes(costs: DataCosts) -> None:
    assert costs.latents(IMAGES, (4, 64, 64)) == Cost(10 * 131_072, 10 * 0.125)


def test_drawn_pictures_are_stored_as_validation_pictures_are(costs: DataCosts) -> None:
    assert costs.drawn(IMAGES, 3) == Cost(3 * 1000, 3 * 2.0)


def test_features_are_floats_and_cost_a_reading_and_a_resizing(costs: DataCosts) -> None:
    assert costs.features(IMAGES, 4, 16) == Cost(4 * 16 * 4, 4 * 1.125)


def test_only_drawn_archives_have_to_be_guessed(costs: DataCosts) -> None:
    assert costs.archives(IMAGES) == 0
    assert costs.archives(Images(8, 2, "scenes", "location")) == 2900


def test_the_planner_agrees_with_real_runs_of_2_000_and_20_000_scenes() -> None:
    """The committed check: bytes within a tenth, seconds within a half, which a busy machine takes at once."""
    check = json.loads((Path(__file__).parents[2] / "bench/results/planner_check.json").read_text())
    assert check.keys() == {"2000_scenes", "20000_scenes", "machine", "date"}
    for scenes in ("2000_scenes", "20000_scenes"):
        for stage in check[scenes].values():
            assert stage["bytes_predicted_over_measured"] == pytest.approx(1, abs=0.1)
            assert stage["seconds_predicted_over_measured"] == pytest.approx(1, abs=0.5)
