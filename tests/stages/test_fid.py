"""The stage fid: what it writes, and the invalid evaluations that it refuses.

All tests compare copies of one set of features, because extracting them takes most of the time.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.data.shards import INDEX, read_index, write_index
from finetune.errors import InputError
from finetune.evaluation.feature_set import PROTOCOL, FeatureSet, read_feature_set, write_feature_set
from finetune.params import Fid, load_params
from stages.features import features, generated_images, reference_images
from stages.fid import fid
from stages.generate import SCHEMA as GENERATED_SCHEMA
from stages.preprocess import SCHEMA as IMAGES_SCHEMA
from tests.builders.image_sets import folders, noise, shapes, write_generated_sets, write_token_table

PARAMS = Fid(
    extractor="efficientnet-lite0.pth",
    clip=None,
    batch_size=8,
    floor_splits=2,
    std_resamples=4,
    precision_neighbors=3,
    density_neighbors=5,
    seed=0,
)
GENERATE = load_params().generate.model_copy(update={"images": 12})
SETS = ("real", "reconstructed", "base", "tuned")


@pytest.fixture(scope="module")
def inputs(images: Path, efficientnet_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of the stage: base generates noise, tuned generates images like those of the datasets."""
    root = tmp_path_factory.mktemp("inputs")
    extractor = root / PARAMS.extractor
    shutil.copy(efficientnet_weights, extractor)
    shutil.copytree(images, root / "images")
    write_token_table(root / "tokens", folders(images))
    generated = write_generated_sets(root / "generated", images, noise(7, 12), shapes(8, 12))
    parts = {"real": reference_images(folders(images), root / "tokens", PARAMS, GENERATE)}
    parts |= {name: generated_images(generated / name, name) for name in SETS[1:]}
    for name, each in parts.items():
        features(each, root / name, extractor, root / "features" / name, PARAMS.batch_size)
    return root


@pytest.fixture
def root(inputs: Path, tmp_path: Path) -> Path:
    """A copy of the inputs, to edit."""
    return Path(shutil.copytree(inputs, tmp_path / "root"))


def run(root: Path, out: Path) -> dict[str, Any]:
    outputs = (out / "fid.json", out / "ladder.csv", out / "by_n.csv", out / "grid.png")
    fid(folders(root / "images"), root / "tokens", root / "generated", root / "features", *outputs, PARAMS)
    report: dict[str, Any] = json.loads((out / "fid.json").read_text())
    return report


def assert_refused(root: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        run(root, root / "out")
    assert not (root / "out").exists()


def edit_protocol(folder: Path, **changes: Any) -> None:
    file = folder / PROTOCOL
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_features(folder: Path, **changes: Any) -> FeatureSet:
    edited = replace(read_feature_set(folder), **changes)
    write_feature_set(folder, edited)
    return edited


def test_report_compares_all_image_sets_and_records_the_protocol(inputs: Path, tmp_path: Path) -> None:
    report = run(inputs, tmp_path)
    assert report.keys() == {"floor", *SETS[1:], "gain", "protocol"}
    for key in ("fd_effnetlite0", "kid_effnetlite0"):
        assert report["tuned"][key] < report["base"][key] / 2
        assert report["gain"][key] > 2 * report["gain"][f"{key}_sd"]
    assert report["base"]["precision"] == report["base"]["coverage"] == 0
    assert report["protocol"].pop("id").startswith("fd_effnetlite0-12-")
    assert report["protocol"] == {
        "density_neighbors": 5,
        "extractor": "efficientnet-lite0.pth",
        "extractor_sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "features": 1280,
        "frechet_key": "fd_effnetlite0",
        "headline": "kid_effnetlite0",
        "kid_key": "kid_effnetlite0",
        "n": 12,
        "n_reference": 12,
        "precision": "float32, TF32 off",
        "precision_neighbors": 3,
        "rank_deficient": True,
        "resize": "clean, 224 px",
    }


def test_equal_inputs_give_equal_bytes_and_a_small_grid(inputs: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(inputs, tmp_path / name)
    for name in ("fid.json", "grid.png", "ladder.csv", "by_n.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with Image.open(tmp_path / "first/grid.png") as page:
        assert page.width > 1000
    assert (tmp_path / "first/grid.png").stat().st_size < 400_000


@pytest.mark.parametrize("split", ["train", "validation"])
def test_copy_of_a_real_image_is_refused(split: str, root: Path) -> None:
    real = read_feature_set(root / "features/real").rows_in_split(split).rows[0]
    rows = read_feature_set(root / "features/tuned").rows
    edit_features(root / "features/tuned", rows=[*rows[:-1], rows[-1] | {"sha256": real["sha256"]}])
    assert_refused(root, rf"tuned: .*flickr8k-validation-3 is a copy of {split} image")


def test_distance_below_half_of_the_floor_is_refused(root: Path) -> None:
    reference = read_feature_set(root / "features/real").rows_in_split("validation").features
    edit_features(root / "features/tuned", features=reference * 1.001)
    assert_refused(root, r"data/generated/tuned: .* less than half of the .* of real images")


def test_validation_image_in_training_is_refused(root: Path) -> None:
    rows = read_index(root / "images/coco")
    rows[0]["sha256"] = next(row["sha256"] for row in rows if row["split"] == "validation")
    write_index(root / "images/coco" / INDEX, rows, IMAGES_SCHEMA)
    assert_refused(root, "1 images are both in training and in validation")


def test_models_with_different_seeds_are_refused(root: Path) -> None:
    rows = [row | {"seed": row["seed"] + 1} for row in read_index(root / "generated/tuned")]
    write_index(root / "generated/tuned" / INDEX, rows, GENERATED_SCHEMA)
    assert_refused(root, "different captions or seeds")


def test_features_of_different_extractor_weights_are_refused(root: Path) -> None:
    edit_protocol(root / "features/tuned", extractor_sha256="0" * 64)
    assert_refused(root, "real and tuned differ in extractor_sha256")


def test_fid_with_no_more_images_than_features_is_refused(root: Path) -> None:
    for name in SETS:
        edit_protocol(root / "features" / name, frechet_key="fid")
    assert_refused(root, "a FID needs more images than its 1280 features")
