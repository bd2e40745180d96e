"""The stage sweep: KID of the same captions and seeds at each guidance scale."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.nn import functional as F

from finetune.evaluation.feature_set import FeatureSet, write_feature_set
from finetune.evaluation.features import Extractor
from finetune.evaluation.mmd import kid
from finetune.params import load_params
from stages.sweep import sweep
from tests.builders.image_sets import shapes, write_generated

PARAMS = load_params()
GENERATE = PARAMS.generate.model_copy(update={"num_inference_steps": 2})
FID = PARAMS.fid.model_copy(update={"std_resamples": 3})
SWEEP = PARAMS.sweep.model_copy(update={"images": 4, "guidance_scales": [1.0, 7.5]})


@pytest.fixture
def inputs(images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    quick = Extractor("fd_quick", "kid_quick", 16, lambda images: F.adaptive_avg_pool2d(images / 255, 2).flatten(1))
    monkeypatch.setattr("stages.sweep.load_extractor", lambda _: quick)
    write_generated(tmp_path / "generated", images, shapes(8, 12))
    rows = [{"id": str(i), "dataset": "coco", "split": "validation", "sha256": ""} for i in range(6)]
    features = np.random.default_rng(0).random((6, 12), np.float32)
    write_feature_set(tmp_path / "real", FeatureSet(rows, features, {}))
    shutil.copytree(tiny_base / "unet", tmp_path / "tuned" / "unet")
    return {
        "base": tiny_base,
        "tuned": tmp_path / "tuned",
        "generated": tmp_path / "generated",
        "real": tmp_path / "real",
    }


def run(inputs: dict[str, Path], out: Path) -> list[dict[str, str]]:
    sweep(**inputs, extractor=Path(), out=out, generate=GENERATE, fid=FID, params=SWEEP)
    with out.open() as file:
        return list(csv.DictReader(file))


def test_each_scale_has_a_kid_with_its_standard_deviation(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = run(inputs, tmp_path / "sweep.csv")
    assert [float(row["guidance_scale"]) for row in rows] == [1.0, 7.5]
    assert {row["key"] for row in rows} == {"kid_quick"}
    assert rows[0]["kid"] != rows[1]["kid"]
    assert all(float(row["sd"]) > 0 for row in rows)


def test_kid_compares_the_images_with_the_validation_images(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = np.random.default_rng(1).random((4, 12), np.float32)
    monkeypatch.setattr("stages.sweep.extract", lambda *_: generated)
    rows = run(inputs, tmp_path / "sweep.csv")
    expected = kid(generated, np.load(inputs["real"] / "features.npy"))
    assert [float(row["kid"]) for row in rows] == pytest.approx([expected, expected], rel=1e-5)


def test_equal_inputs_give_equal_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first.csv", "second.csv"):
        run(inputs, tmp_path / name)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
