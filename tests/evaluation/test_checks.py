"""Each check refuses an invalid evaluation and says what to do."""

from typing import Any

import pytest

from finetune.errors import InputError
from finetune.evaluation.checks import (
    check_held_out,
    check_no_copies,
    check_one_protocol,
    check_plausible,
    check_rank,
    check_same_task,
)

PROTOCOL = {"extractor": "inception-2015-12-05.pt", "resize": "clean, 299 px"}


def rows(*ids: str, split: str = "train") -> list[dict[str, Any]]:
    return [{"id": name, "dataset": "coco", "split": split, "sha256": f"pixels of {split} {name}"} for name in ids]


@pytest.mark.parametrize("other", [{"resize": "squash, 299 px"}, {"resize": None}, {"quality": 95}])
def test_feature_sets_of_different_protocols_are_refused(other: dict[str, Any]) -> None:
    check_one_protocol({"real": PROTOCOL, "base": {**PROTOCOL}, "tuned": {**PROTOCOL}})
    with pytest.raises(InputError, match=f"real and tuned differ in {next(iter(other))}, .*; run `dvc repro`"):
        check_one_protocol({"real": PROTOCOL, "base": PROTOCOL, "tuned": PROTOCOL | other})


def test_same_pixels_in_training_and_validation_are_refused() -> None:
    training, validation = rows("1", "2", "17_a1b2"), rows("4", "17_c3d4", split="validation")
    check_held_out(training, validation)
    validation[0]["sha256"] = training[2]["sha256"]
    with pytest.raises(InputError, match="1 images are both in training and in validation"):
        check_held_out(training, validation)


@pytest.mark.parametrize("name", ["COCO_val2014_000000000042", "COCO_val2014_000000000042.jpg", "000000000042"])
def test_val2014_is_refused_after_training_on_train2017(name: str) -> None:
    """COCO 2017 trains on 35,504 of val2014's 40,504 images: the usual COCO-30k protocol would be contaminated."""
    with pytest.raises(
        InputError, match=r"under a different name, such as number 42; .*with val2017, never with val2014"
    ):
        check_held_out(rows("000000000042", "000000000043"), rows(name, split="validation"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_copy_of_a_real_image_is_refused(split: str) -> None:
    real = rows("7", split=split)
    generated = [*rows("8", split="tuned"), {**real[0], "id": "9", "split": "tuned"}]
    with pytest.raises(InputError, match=f"data/generated/tuned: the image for coco-9 is a copy of {split} image 7"):
        check_no_copies("tuned", generated, real)
    check_no_copies("tuned", generated[:1], real)


@pytest.mark.parametrize("other", [{"seed": 2}, {"prompt": "a ring"}, {"id": "8"}])
def test_models_with_different_captions_or_seeds_are_refused(other: dict[str, Any]) -> None:
    task = {"id": "7", "prompt": "a star", "seed": 1}
    check_same_task({"base": [task], "tuned": [task]})
    with pytest.raises(InputError, match="different captions or seeds"):
        check_same_task({"base": [task], "tuned": [task | other]})


def test_fid_with_no_more_images_than_features_is_refused() -> None:
    protocol = {"frechet_key": "fid", "n": 2048, "features": 2048, "rank_deficient": True}
    with pytest.raises(InputError, match=r"generate\.images is 2048, but a FID needs more images than its 2048"):
        check_rank(protocol)
    check_rank(protocol | {"rank_deficient": False})
    check_rank(protocol | {"frechet_key": "fd_effnetlite0"})  # not a FID: reported with the flag rank_deficient


def test_distance_below_half_of_the_floor_is_refused() -> None:
    check_plausible("tuned", distance=6.0, floor=12.0)
    with pytest.raises(InputError, match=r"data/generated/tuned: its distance .* 5\.9, is less than half of the 12 of"):
        check_plausible("tuned", distance=5.9, floor=12.0)
