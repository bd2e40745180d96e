import json
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.nn import functional as F

from finetune.errors import InputError
from finetune.features import Extractor
from finetune.params import Fid
from finetune.shards import INDEX, read_images, read_index, write_index, write_shard
from stages.fid import fid
from stages.generate import SCHEMA
from tests.image_sets import folders, png, shapes, write_image_set, write_token_table

PARAMS = Fid(extractor="efficientnet-lite0.pth", batch_size=8, kid_subsets=5, kid_subset_size=6, seed=0)


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features that cost nothing: the means of 16 tiles."""
    quick = Extractor("fd_quick", "kid_quick", 32, lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1))
    monkeypatch.setattr("stages.fid.load_extractor", lambda _: quick)
    return Path("unused")


def noise(seed: int, pictures: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (pictures, 64, 64, 3), np.uint8))


def write_generated(folder: Path, images: Path, pictures: list[np.ndarray], seed: int = 0) -> None:
    folder.mkdir(parents=True)
    validation = [
        row for dataset in ("coco", "flickr8k") for row in read_index(images / dataset) if row["split"] == "validation"
    ]
    rows: list[dict[str, Any]] = [
        {
            "id": row["id"],
            "dataset": row["dataset"],
            "shard": "00000.tar",
            "member": f"{row['dataset']}-{row['id']}.png",
            "prompt": row["captions"][0].strip(),
            "seed": seed,
        }
        for row in validation
    ]
    write_shard(folder / "00000.tar", [(row["member"], png(p)) for row, p in zip(rows, pictures, strict=True)])
    write_index(folder / INDEX, rows, SCHEMA)


@pytest.fixture
def generated(images: Path, tmp_path: Path) -> Path:
    """A base that draws noise and a tuned model that draws what the data sets hold."""
    write_generated(tmp_path / "generated" / "base", images, noise(7, 12))
    write_generated(tmp_path / "generated" / "tuned", images, shapes(8, 12))
    return tmp_path / "generated"


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
    fid(folders(images), out / "tokens", generated, extractor, out / "fid.json", out / "grid.png", params)
    report: dict[str, Any] = json.loads((out / "fid.json").read_text())
    return report


def test_the_report_is_a_ladder_with_its_protocol(
    images: Path, generated: Path, efficientnet_weights: Path, tmp_path: Path
) -> None:
    shutil.copy(efficientnet_weights, tmp_path / "efficientnet-lite0.pth")
    report = run(images, generated, tmp_path, tmp_path)
    assert report.keys() == {"base", "floor", "protocol", "tuned"}
    for name in ("base", "floor", "tuned"):
        assert report[name].keys() == {"fd_effnetlite0", "kid_effnetlite0", "kid_effnetlite0_sd", "n"}
        assert report[name]["n"] == 12
    assert report["protocol"] == {
        "extractor": "efficientnet-lite0.pth",
        "features": 1280,
        "kid_subset_size": 6,
        "n_reference": 12,
        "rank_deficient": True,
        "resize": "clean, 224 px",
    }
    for key in ("fd_effnetlite0", "kid_effnetlite0"):
        assert report["tuned"][key] < report["base"][key] / 2  # tuned draws what the data hold, base draws noise


def test_a_covariance_of_more_images_than_features_is_of_full_rank(
    images: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Extractor("fd_few", "kid_few", 32, lambda images: images.mean(dim=(2, 3)))
    monkeypatch.setattr("stages.fid.load_extractor", lambda _: few)
    assert run(images, generated, Path("unused"), tmp_path)["protocol"]["rank_deficient"] is False


def test_the_same_inputs_give_the_same_bytes(images: Path, generated: Path, extractor: Path, tmp_path: Path) -> None:
    run(images, generated, extractor, tmp_path / "first")
    run(images, generated, extractor, tmp_path / "second")
    for name in ("fid.json", "grid.png"):
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
    write_generated(tmp_path / "copied" / "base", images, noise(7, 12))
    write_generated(tmp_path / "copied" / "tuned", images, [*shapes(8, 11), copy])
    with pytest.raises(InputError, match=rf"flickr8k-validation-3\.png is a copy of {split} image {row['id']}"):
        run(images, tmp_path / "copied", extractor, tmp_path)
    assert not (tmp_path / "fid.json").exists()


def test_figures_too_good_to_be_true_are_refused(extractor: Path, tmp_path: Path) -> None:
    for dataset, seed in (("coco", 1), ("flickr8k", 3)):
        night = [picture // 8 for picture in noise(seed, 8)]
        write_image_set(tmp_path / "images" / dataset, dataset, {"train": night, "validation": shapes(seed, 6)})
    write_generated(tmp_path / "generated" / "base", tmp_path / "images", noise(7, 12))
    write_generated(tmp_path / "generated" / "tuned", tmp_path / "images", shapes(8, 12))
    with pytest.raises(InputError, match="half the distance of real ones"):
        run(tmp_path / "images", tmp_path / "generated", extractor, tmp_path)


def test_the_floor_has_only_pictures_that_were_trained_on(extractor: Path, tmp_path: Path) -> None:
    """What resembles validation is left out of training by tokenize, and would make the floor look better than real."""
    images, copies = tmp_path / "images", [f"{dataset}-train-{i}" for dataset in ("coco", "flickr8k") for i in range(6)]
    for dataset, seed in (("coco", 1), ("flickr8k", 3)):
        same = shapes(seed, 6)
        write_image_set(images / dataset, dataset, {"train": [*same, *noise(seed, 6)], "validation": same})
    for model in ("base", "tuned"):
        write_generated(tmp_path / "generated" / model, images, noise(7, 12))
    floors = [
        run(images, tmp_path / "generated", extractor, tmp_path / str(len(left_out)), left_out=left_out)["floor"]
        for left_out in ([], copies)
    ]
    assert floors[0]["fd_quick"] < floors[1]["fd_quick"] / 2


def test_models_that_drew_from_other_seeds_are_not_compared(images: Path, extractor: Path, tmp_path: Path) -> None:
    write_generated(tmp_path / "generated" / "base", images, noise(7, 12), seed=1)
    write_generated(tmp_path / "generated" / "tuned", images, shapes(8, 12), seed=2)
    with pytest.raises(InputError, match="different captions or seeds"):
        run(images, tmp_path / "generated", extractor, tmp_path)


def test_subsets_larger_than_a_set_are_refused_by_key(
    images: Path, generated: Path, extractor: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"fid\.kid_subset_size is 13, but one of the sets has 12 images"):
        run(images, generated, extractor, tmp_path, PARAMS.model_copy(update={"kid_subset_size": 13}))
