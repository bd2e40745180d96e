"""The stage fid: a ladder of figures, each with its deviation, or no figure at all."""

import csv
import json
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finetune.data.shards import read_images, read_index
from finetune.errors import InputError
from finetune.evaluation.feature_set import read_feature_set
from finetune.evaluation.features import Extractor
from finetune.evaluation.frechet import frechet_distance
from finetune.params import Fid, load_params
from stages.features import features, generated_images, reference_images
from stages.fid import NO_FID, fid
from tests.builders.image_sets import folders, noise, shapes, write_image_set, write_ladder, write_token_table

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
RUNGS = ("floor", "reconstructed", "base", "tuned")


def use(extractor: Extractor, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setattr("stages.features.load_extractor", lambda *_, **__: extractor)
    folder.mkdir()
    (folder / PARAMS.extractor).write_bytes(b"weights")
    return folder


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Features that cost nothing: the means of 16 tiles."""
    quick = Extractor("fd_quick", "kid_quick", 32, lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1))
    return use(quick, monkeypatch, tmp_path / "extractor")


@pytest.fixture
def generated(images: Path, tmp_path: Path) -> Path:
    """A base that draws noise and a tuned model that draws what the datasets hold."""
    return write_ladder(tmp_path / "generated", images, noise(7, 12), shapes(8, 12))


def run(
    images: Path,
    generated: Path,
    extractor: Path,
    out: Path,
    params: Fid = PARAMS,
    left_out: Container[str] = (),
) -> dict[str, Any]:
    shutil.rmtree(out / "tokens", ignore_errors=True)
    write_token_table(out / "tokens", folders(images), left_out)
    pictures = {name: generated_images(generated / name, name) for name in ("reconstructed", "base", "tuned")}
    for name, each in {"real": reference_images(folders(images), out / "tokens", params, GENERATE), **pictures}.items():
        features(each, generated / name, extractor / params.extractor, out / "features" / name, params.batch_size)
    return compare(images, generated, out, params)


def compare(images: Path, generated: Path, out: Path, params: Fid = PARAMS) -> dict[str, Any]:
    places = (out / "features", out / "fid.json", out / "ladder.csv", out / "by_n.csv", out / "grid.png")
    fid(folders(images), out / "tokens", generated, *places, params)
    report: dict[str, Any] = json.loads((out / "fid.json").read_text())
    return report


def read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_report_is_a_ladder_with_its_protocol(
    images: Path, generated: Path, efficientnet_weights: Path, tmp_path: Path
) -> None:
    shutil.copy(efficientnet_weights, tmp_path / "efficientnet-lite0.pth")
    report = run(images, generated, tmp_path, tmp_path)
    figures = {"fd_effnetlite0", "kid_effnetlite0", "precision", "recall", "density", "coverage"}
    assert report.keys() == {*RUNGS, "gain", "protocol"}
    for name in RUNGS:
        assert report[name].keys() == figures | {f"{figure}_sd" for figure in figures} | {"n"}
        assert report[name]["n"] == 12
    assert report["gain"].keys() == {
        f"{figure}{suffix}" for figure in ("fd_effnetlite0", "kid_effnetlite0") for suffix in ("", "_sd")
    } | {"n"}
    protocol = report["protocol"]
    assert protocol.pop("id").startswith("fd_effnetlite0-12-")
    assert protocol == {
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
    for key in ("fd_effnetlite0", "kid_effnetlite0"):
        assert report["tuned"][key] < report["base"][key] / 2  # tuned draws what the data hold, base draws noise
        assert report["gain"][key] == pytest.approx(report["base"][key] - report["tuned"][key], rel=1e-4)
        assert report["gain"][key] > 2 * report["gain"][f"{key}_sd"]
    assert report["base"]["precision"] == report["base"]["coverage"] == 0


def test_a_covariance_of_more_images_than_features_is_of_full_rank_and_makes_the_headline(
    images: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Extractor("fd_few", "kid_few", 32, lambda images: images.mean(dim=(2, 3)))
    report = run(images, generated, use(few, monkeypatch, tmp_path / "few"), tmp_path)
    assert report["protocol"]["rank_deficient"] is False
    assert report["protocol"]["headline"] == "fd_few"
    assert "fd_few_infinity" in report["tuned"]  # 12 images are four times the 3 features


def test_the_distance_of_64_features_has_a_name_of_its_own_and_says_that_it_is_no_fid(
    images: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)

    plain = Extractor("fid", "kid", 32, lambda images: images.mean(dim=(2, 3)))
    both = Extractor("fid", "kid", 32, network, few=3)
    without = run(images, generated, use(plain, monkeypatch, tmp_path / "plain"), tmp_path)
    report = run(images, generated, use(both, monkeypatch, tmp_path / "both"), tmp_path)
    assert "fid_64" not in without["tuned"].keys() | without["protocol"].keys()
    assert report["protocol"]["fid_64"] == NO_FID
    assert report["protocol"]["features"] == 3
    for rung in RUNGS:
        assert report[rung]["fid"] == without[rung]["fid"]
        assert report[rung]["fid_64_sd"] > 0
    few = [read_feature_set(tmp_path / "features" / name) for name in ("tuned", "real")]
    deviations = few[0].early_features, few[1].rows_in_split("validation").early_features
    assert report["tuned"]["fid_64"] == pytest.approx(frechet_distance(*deviations), rel=1e-5)


def test_the_floor_is_the_mean_of_disjoint_sets_and_its_deviation_their_spread(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    report = run(images, generated, extractor, tmp_path)
    again = run(images, generated, extractor, tmp_path / "again", PARAMS.model_copy(update={"std_resamples": 9}))
    assert report["floor"] == again["floor"]  # nothing of it comes from random halves
    assert report["floor"]["fd_quick_sd"] > 0
    assert report["tuned"]["fd_quick_sd"] != again["tuned"]["fd_quick_sd"]


def test_the_id_tells_protocols_apart_and_not_models(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    first = run(images, generated, extractor, tmp_path)["protocol"]["id"]
    others = write_ladder(tmp_path / "others", images, noise(1, 12), noise(2, 12))
    assert run(images, others, extractor, tmp_path)["protocol"]["id"] == first
    other_k = PARAMS.model_copy(update={"density_neighbors": 4})
    assert run(images, generated, extractor, tmp_path, other_k)["protocol"]["id"] != first
    (extractor / PARAMS.extractor).write_bytes(b"other weights")
    assert run(images, generated, extractor, tmp_path)["protocol"]["id"] != first


def test_the_plot_s_rows_are_the_figures_of_the_report(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    report = run(images, generated, extractor, tmp_path)
    rows = read_csv(tmp_path / "ladder.csv")
    assert len(rows) == 6 * len(RUNGS)
    for row in rows:
        assert float(row["value"]) == report[row["images"]][row["figure"]]
        assert float(row["sd"]) == report[row["images"]][f"{row['figure']}_sd"]


def test_the_distance_is_told_for_ever_more_pictures(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    report = run(images, generated, extractor, tmp_path)
    rows = read_csv(tmp_path / "by_n.csv")
    assert [int(row["n"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    for name in ("reconstructed", "base", "tuned"):  # of all images it is the report's
        assert float(rows[-1][name]) == pytest.approx(report[name]["fd_quick"], rel=1e-5)


def test_the_plot_s_template_knows_its_columns(images: Path, generated: Path, extractor: Path, tmp_path: Path) -> None:
    run(images, generated, extractor, tmp_path)
    template = (Path(__file__).parents[2] / ".dvc" / "plots" / "ladder.json").read_text()
    json.loads(template)
    fields = {*re.findall(r'"field": "(\w+)"', template), *re.findall(r"datum\.(\w+)", template)}
    columns = (tmp_path / "ladder.csv").read_text().splitlines()[0].split(",")
    assert fields - {"rev", "low", "high"} == {*columns}


def test_the_same_inputs_give_the_same_bytes(images: Path, generated: Path, extractor: Path, tmp_path: Path) -> None:
    run(images, generated, extractor, tmp_path / "first")
    run(images, generated, extractor, tmp_path / "second")
    for name in ("fid.json", "grid.png", "ladder.csv", "by_n.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_grid_is_a_small_picture(images: Path, generated: Path, extractor: Path, tmp_path: Path) -> None:
    run(images, generated, extractor, tmp_path)
    with Image.open(tmp_path / "grid.png") as page:
        assert page.width > 1000
    assert (tmp_path / "grid.png").stat().st_size < 400_000


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_generated_copy_of_a_real_picture_is_refused(
    split: str, images: Path, extractor: Path, tmp_path: Path
) -> None:
    row = next(row for row in read_index(images / "coco") if row["split"] == split)
    ((_, copy),) = read_images(images / "coco", [row])
    copied = write_ladder(tmp_path / "copied", images, noise(7, 12), [*shapes(8, 11), copy])
    with pytest.raises(InputError, match=rf"tuned: .*flickr8k-validation-3 is a copy of {split} image"):
        run(images, copied, extractor, tmp_path)
    assert not (tmp_path / "fid.json").exists()


def test_figures_too_good_to_be_true_are_refused(extractor: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for dataset, seed in (("coco", 1), ("flickr8k", 3)):
        night = [image // 8 for image in noise(seed, 12)]
        write_image_set(images / dataset, dataset, {"train": night, "validation": shapes(seed, 6)})
    dark = [image // 9 for image in noise(7, 12)]
    with pytest.raises(InputError, match=r"data/generated/tuned: .* less than half of the .* of real ones"):
        run(images, write_ladder(tmp_path / "generated", images, dark, shapes(8, 12)), extractor, tmp_path)
    assert not (tmp_path / "fid.json").exists()


def test_a_picture_in_training_and_validation_is_refused(extractor: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for dataset, seed in (("coco", 1), ("flickr8k", 3)):
        write_image_set(images / dataset, dataset, {"train": shapes(1, 12), "validation": shapes(seed, 6)})
    with pytest.raises(InputError, match="6 images are both in training and in validation"):
        run(images, write_ladder(tmp_path / "generated", images, noise(7, 12), noise(8, 12)), extractor, tmp_path)


def test_the_floor_has_only_pictures_that_were_trained_on(extractor: Path, tmp_path: Path) -> None:
    """What resembles validation is left out of training by tokenize, and would make the floor look better than real."""
    images, copies = tmp_path / "images", [f"{dataset}-train-{i}" for dataset in ("coco", "flickr8k") for i in range(6)]
    for dataset, seed in (("coco", 1), ("flickr8k", 3)):
        alike = [image - image // 64 for image in shapes(seed, 6)]
        training = [*alike, *noise(seed, 12)]
        write_image_set(images / dataset, dataset, {"train": training, "validation": shapes(seed, 6)})
    generated = write_ladder(tmp_path / "generated", images, noise(7, 12), noise(8, 12))
    floors = [
        run(images, generated, extractor, tmp_path / str(len(left_out)), left_out=left_out)["floor"]
        for left_out in ([], copies)
    ]
    assert floors[0]["fd_quick"] < floors[1]["fd_quick"]


def test_models_that_drew_from_other_seeds_are_not_compared(images: Path, extractor: Path, tmp_path: Path) -> None:
    generated = write_ladder(tmp_path / "generated", images, noise(7, 12), shapes(8, 12), seeds=(1, 2))
    with pytest.raises(InputError, match="different captions or seeds"):
        run(images, generated, extractor, tmp_path)


def test_features_of_other_weights_are_not_compared(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    run(images, generated, extractor, tmp_path)
    protocol = tmp_path / "features" / "tuned" / "protocol.json"
    protocol.write_text(json.dumps(json.loads(protocol.read_text()) | {"extractor_sha256": "0" * 64}))
    with pytest.raises(InputError, match="real and tuned differ in extractor_sha256"):
        compare(images, generated, tmp_path)


def test_a_fid_of_too_few_pictures_is_refused(
    images: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inception = Extractor("fid", "kid", 32, lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1))
    with pytest.raises(InputError, match="a FID needs more images than its 48 features"):
        run(images, generated, use(inception, monkeypatch, tmp_path / "inception"), tmp_path)
