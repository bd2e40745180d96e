"""The stage features: extracts features, and records what the comparison needs of each image."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from torch.nn import functional as F

from finetune import errors
from finetune.artifacts import sha256_file
from finetune.data.shards import read_images, read_index
from finetune.errors import InputError
from finetune.evaluation.feature_set import FeatureSet, read_feature_set
from finetune.evaluation.features import Extractor
from finetune.packaged import write_reference
from finetune.params import Fid, load_params
from stages.features import Part, features, generated_images, reference_images
from tests.builders.image_sets import folders, shapes, write_generated, write_generated_rows, write_token_table

PARAMS = load_params()
FID = PARAMS.fid.model_copy(update={"floor_splits": 2})
GENERATE = PARAMS.generate.model_copy(update={"images": 6})


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A fast extractor: the means of 16 tiles."""
    quick = Extractor("fd_quick", "kid_quick", 32, lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1))
    monkeypatch.setattr("stages.features.load_extractor", lambda *_, **__: quick)
    (tmp_path / "quick.pth").write_bytes(b"weights")
    return tmp_path / "quick.pth"


def reference_parts(images: Path, tmp_path: Path, fid: Fid = FID) -> list[Part]:
    if not (tmp_path / "tokens").exists():
        write_token_table(tmp_path / "tokens", folders(images))
    return reference_images(folders(images), tmp_path / "tokens", fid, GENERATE)


def run(parts: list[Part], extractor: Path, tmp_path: Path) -> FeatureSet:
    features(parts, tmp_path / "source", extractor, tmp_path / "features", batch_size=4)
    return read_feature_set(tmp_path / "features")


def test_reference_has_all_validation_images_and_the_training_images_of_the_floor(
    images: Path, extractor: Path, tmp_path: Path
) -> None:
    result = run(reference_parts(images, tmp_path), extractor, tmp_path)
    assert len(result.rows_in_split("validation").rows) == 12
    assert len(result.rows_in_split("train").rows) == 2 * 6
    assert {row["dataset"] for row in result.rows if row["split"] == "train"} == {"coco", "flickr8k"}


def test_floor_excludes_training_images_that_tokenize_dropped(images: Path, tmp_path: Path) -> None:
    """They resemble validation images, and would make the floor too low."""
    dropped = {f"coco-train-{i}" for i in range(6)}
    write_token_table(tmp_path / "tokens", folders(images), dropped)
    ids = {
        row["id"]
        for part in reference_parts(images, tmp_path, FID.model_copy(update={"floor_splits": 3}))
        for row in part.rows
    }
    assert len([name for name in ids if "train" in name]) == 18
    assert not ids & dropped


def test_rows_and_features_have_the_same_order(images: Path, extractor: Path, tmp_path: Path) -> None:
    parts = reference_parts(images, tmp_path)
    result = run(parts, extractor, tmp_path)
    images_read = [image for part in parts for image in read_images(part.folder, part.rows)]
    assert [row["id"] for row in result.rows] == [row["id"] for row, _ in images_read]
    assert [row["sha256"] for row in result.rows] == [hashlib.sha256(p.tobytes()).hexdigest() for _, p in images_read]
    tiles = [p.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3)) for _, p in images_read]
    colors = result.features.reshape(-1, 3, 4, 4).transpose(0, 2, 3, 1)
    assert colors == pytest.approx(np.array(tiles), abs=20)  # resized


def test_protocol_records_network_weights_and_resizing(images: Path, extractor: Path, tmp_path: Path) -> None:
    assert run(reference_parts(images, tmp_path), extractor, tmp_path).protocol == {
        "extractor": "quick.pth",
        "extractor_sha256": hashlib.sha256(b"weights").hexdigest(),
        "features": 48,
        "frechet_key": "fd_quick",
        "kid_key": "kid_quick",
        "precision": "float32, TF32 off",
        "resize": "clean, 32 px",
    }


def test_protocol_of_packaged_weights_has_their_hash(images: Path, extractor: Path, tmp_path: Path) -> None:
    write_reference("package:finetune/errors.py", extractor)
    extractor.unlink()
    protocol = run(reference_parts(images, tmp_path), extractor, tmp_path).protocol
    assert protocol["extractor"] == "quick.pth"
    assert protocol["extractor_sha256"] == sha256_file(Path(errors.__file__))


def test_generated_images_have_their_model_as_split(images: Path, extractor: Path, tmp_path: Path) -> None:
    write_generated(tmp_path / "tuned", images, shapes(8, 12))
    result = run(generated_images(tmp_path / "tuned", "tuned"), extractor, tmp_path)
    assert [(row["id"], row["split"]) for row in result.rows] == [
        (row["id"], "tuned") for row in read_index(tmp_path / "tuned")
    ]


def test_equal_images_give_equal_bytes(images: Path, extractor: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        run(reference_parts(images, tmp_path), extractor, tmp_path)
        contents.append([path.read_bytes() for path in sorted((tmp_path / "features").iterdir())])
    assert contents[0] == contents[1]


def test_single_color_images_are_refused(images: Path, extractor: Path, tmp_path: Path) -> None:
    write_generated(tmp_path / "tuned", images, [*shapes(8, 11), np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(InputError, match="source: 1 of 12 images are a single color, more than 1%"):
        run(generated_images(tmp_path / "tuned", "tuned"), extractor, tmp_path)
    assert not (tmp_path / "features").exists()


def test_one_percent_of_single_color_images_is_allowed(extractor: Path, tmp_path: Path) -> None:
    rows = [{"id": str(i), "dataset": "coco", "prompt": "a star", "seed": i} for i in range(100)]
    write_generated_rows(tmp_path / "tuned", rows, [*shapes(8, 99), np.zeros((64, 64, 3), np.uint8)])
    assert len(run(generated_images(tmp_path / "tuned", "tuned"), extractor, tmp_path).rows) == 100


def test_floor_with_too_few_training_images_names_the_keys(images: Path, tmp_path: Path) -> None:
    many = FID.model_copy(update={"floor_splits": 5})
    with pytest.raises(
        InputError, match=r"fid\.floor_splits \(5\) times .* needs 30 training images, but there are 24; lower"
    ):
        reference_parts(images, tmp_path, many)
