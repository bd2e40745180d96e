"""Grounding: metrics against hand-computed values, masks against those of the synthetic scenes."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.attention.maps import word_map
from finetune.data.latents import MANIFEST
from finetune.data.shards import INDEX, read_index, write_index
from finetune.data.transforms import RESOLUTION
from finetune.datasets.scene_archives import FIRST_SEED, draw_archive
from finetune.datasets.scenes.drawing import masks
from finetune.datasets.scenes.world import make_scene
from finetune.errors import InputError
from finetune.evaluation.coco_masks import read_masks
from finetune.evaluation.grounding import find_tokens, pointing_hit, roc_auc
from finetune.model.loading import load_pipeline
from finetune.params import load_params
from stages.grounding import grounding
from stages.preprocess import SCHEMA
from tests.builders.image_sets import write_image_set

LOCATION = "scenes:coco?train=1&validation=6"
FIRST = FIRST_SEED["coco", "validation"]
ARCHIVE = "annotations_trainval2017.zip"
SPLIT = "val2017"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    draw_archive(LOCATION, ARCHIVE, folder / ARCHIVE)
    return folder


def write_instances(folder: Path, instances: list[dict[str, Any]]) -> Path:
    content = {"annotations": instances, "categories": [{"id": 7, "name": "traffic light"}]}
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        archive.writestr(f"annotations/instances_{SPLIT}.json", json.dumps(content))
    return folder


def instance(segmentation: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 7, "segmentation": segmentation}


def test_roc_auc_counts_ordered_pairs() -> None:
    mask = np.array([[True, True], [False, False]])
    assert roc_auc(np.array([[3, 4], [1, 2]]), mask) == 1
    assert roc_auc(np.array([[1, 2], [3, 4]]), mask) == 0
    assert roc_auc(np.array([[1, 4], [3, 2]]), mask) == 0.5  # 4 beats both, 1 beats none
    assert roc_auc(np.array([[3, 4], [3, 1]]), mask) == 3.5 / 4  # a tie counts half
    assert roc_auc(np.zeros((2, 2)), mask) == 0.5


def test_pointing_hit_checks_the_highest_score() -> None:
    mask = np.array([[True, False], [False, False]])
    assert pointing_hit(np.array([[0.9, 0.1], [0.2, 0.3]]), mask)
    assert not pointing_hit(np.array([[0.1, 0.9], [0.2, 0.3]]), mask)


def test_word_is_found_with_all_its_tokens() -> None:
    assert find_tokens([5, 6], [1, 5, 9, 5, 6, 2]) == [3, 4]
    assert find_tokens([5, 6], [1, 6, 5]) == []


def test_masks_of_scenes_match_their_objects(raw: Path) -> None:
    numbers = range(FIRST, FIRST + 6)
    read = read_masks(raw, SPLIT, dict.fromkeys(numbers, (RESOLUTION, RESOLUTION)), "center", 64)
    assert read.keys() == {*numbers}
    for number in numbers:
        expected = masks(make_scene(number, "unseen"))
        assert read[number].keys() == expected.keys()
        for name, mask in expected.items():
            assert (read[number][name] != (mask.reshape(64, 8, 64, 8).mean(axis=(1, 3)) >= 0.5)).mean() < 0.005


@pytest.mark.parametrize(
    ("crop", "expected"), [("center", [True, True, False, False]), ("squash", [False, True, False, False])]
)
def test_masks_are_cropped_like_the_image(crop: Any, expected: list[bool], tmp_path: Path) -> None:
    """The second quarter of a 2:1 image is the left half of its center square."""
    folder = write_instances(tmp_path, [instance([[20, 0, 40, 0, 40, 40, 20, 40]])])
    mask = read_masks(folder, SPLIT, {1: (80, 40)}, crop, 4)[1]["traffic light"]
    assert mask.tolist() == [expected] * 4


def test_run_lengths_are_column_major(tmp_path: Path) -> None:
    folder = write_instances(tmp_path, [instance({"counts": [40 * 20, 40 * 20], "size": [40, 40]})])
    mask = read_masks(folder, SPLIT, {1: (40, 40)}, "center", 4)[1]["traffic light"]
    assert mask.tolist() == [[False, False, True, True]] * 4


def test_objects_of_one_category_share_a_mask(tmp_path: Path) -> None:
    halves = [[0, 0, 20, 0, 20, 40, 0, 40]], [[20, 0, 40, 0, 40, 40, 20, 40]]
    folder = write_instances(tmp_path, [instance(half) for half in halves])
    assert read_masks(folder, SPLIT, {1: (40, 40)}, "center", 4)[1]["traffic light"].all()


def test_invalid_mask_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write_instances(tmp_path, [instance("a polygon")])
    with pytest.raises(InputError, match=f"{ARCHIVE}: annotations/instances_{SPLIT}.json: .*fetch the original"):
        read_masks(folder, SPLIT, {1: (40, 40)}, "center", 4)


def test_word_maps_of_all_tokens_sum_to_one(tiny_base: Path) -> None:
    pipeline = load_pipeline(tiny_base)
    tokens = pipeline.tokenizer("a star", padding="max_length", max_length=77).input_ids
    text = pipeline.text_encoder(torch.tensor([tokens])).last_hidden_state
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = pipeline.unet(noisy, 400, text).sample
    parts = [range(20), range(20, 77)]
    maps = [word_map(pipeline.unet, noisy, 400, text, part) for part in parts]
    assert maps[0].shape == (8, 8)
    assert sum(maps) == pytest.approx(np.ones((8, 8)))
    assert torch.equal(pipeline.unet(noisy, 400, text).sample, before)  # hooks are removed


@pytest.fixture
def scene_set(raw: Path, tmp_path: Path) -> dict[str, Path]:
    """The scenes of `raw`, prepared: 64x64 images, 8x8 latents, captions that name the object."""
    pixels = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(6)]
    write_image_set(tmp_path / "images" / "coco", "coco", {"validation": pixels})
    index = tmp_path / "images" / "coco" / INDEX
    rows = read_index(index.parent)
    for i, row in enumerate(rows):
        subject = make_scene(FIRST + i, "unseen").combination.subject
        row |= {"id": f"{FIRST + i:012d}", "width": RESOLUTION, "height": RESOLUTION}
        row["captions"] = ["nothing of note", f"two  {subject}s in a room"] if i else ["nothing of note"]
    write_index(index, rows, SCHEMA)
    latents = tmp_path / "latents" / "coco"
    latents.mkdir(parents=True)
    np.save(latents / "0.npy", np.random.default_rng(0).normal(size=(6, 1, 8, 8, 8)).astype(np.float16))
    (latents / MANIFEST).write_text(json.dumps({"shards": [{"file": "0.npy", "images": 6}]}))
    return {"raw": raw, "images": tmp_path / "images" / "coco", "latents": latents}


def run(scene_set: dict[str, Path], base: Path, out: Path, *, formats: str = "coco") -> dict[str, Any]:
    section = load_params().preprocess["coco"].model_copy(update={"format": formats})
    params = load_params().grounding.model_copy(update={"images": 6})
    sources = [{"coco": scene_set[name]} for name in ("raw", "images", "latents")]
    tuned = out / "tuned"
    if not tuned.exists():
        shutil.copytree(base / "unet", tuned / "unet")
    places = out / "grounding.json", out / "grounding.png"
    grounding(*sources, base, tuned, *places, {"coco": section}, params)
    report: dict[str, Any] = json.loads(places[0].read_text())
    return report


def test_report_compares_both_models_on_captions_that_name_an_object(
    scene_set: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    report = run(scene_set, tiny_base, tmp_path)
    assert report["images"] == 5  # one caption names no object
    assert report["timestep"] == 400
    assert 0 < report["area"] < 0.5
    assert report["base"].keys() == {"auc", "auc_sd", "pointing", "pointing_sd"}
    assert report["base"] == report["tuned"]  # a copy
    assert set(report["gain"].values()) == {0}
    with Image.open(tmp_path / "grounding.png") as page:
        assert page.width > 1000


def test_a_vae_of_12_channels_and_factor_16_is_measured_too(
    scene_set: dict[str, Path], tiny_base_16: Path, tmp_path: Path
) -> None:
    moments = np.random.default_rng(0).normal(size=(6, 1, 24, 4, 4)).astype(np.float16)
    np.save(scene_set["latents"] / "0.npy", moments)
    assert run(scene_set, tiny_base_16, tmp_path)["images"] == 4  # at 4x4 positions, one object fills none


def test_equal_inputs_give_equal_bytes(scene_set: dict[str, Path], tiny_base: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        run(scene_set, tiny_base, tmp_path)
        contents.append([(tmp_path / f"grounding.{suffix}").read_bytes() for suffix in ("json", "png")])
    assert contents[0] == contents[1]


def test_datasets_without_masks_give_an_empty_report(
    scene_set: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    assert run(scene_set, tiny_base, tmp_path, formats="imagefolder") == {"images": 0, "timestep": 400}


def test_archive_without_instances_has_no_masks(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / ARCHIVE, "w") as archive:
        archive.writestr(f"annotations/captions_{SPLIT}.json", "{}")
    assert read_masks(tmp_path, SPLIT, {1: (64, 64)}, "center", 8) == {}
