"""Checks that an evaluation is valid. Each raises InputError, so that an invalid metric is never written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.errors import InputError

Row = Mapping[str, Any]

COCO_NUMBER = re.compile(r"(?:^|COCO_(?:train|val)2014_)(\d{12})(?:\.jpg)?$")


def check_one_protocol(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that all feature sets were extracted in the same way. protocols: name of the feature set -> protocol."""
    (first, expected), *others = protocols.items()
    for name, protocol in others:
        different = [key for key in expected.keys() | protocol.keys() if expected.get(key) != protocol.get(key)]
        if different:
            raise InputError(
                f"data/features: {first} and {name} differ in {', '.join(sorted(different))}, so they cannot be "
                "compared; run `dvc repro`"
            )


def check_held_out(training: Iterable[Row], validation: Sequence[Row]) -> None:
    """Check that no validation image was trained on, by the hash of its pixels and by its COCO number.

    COCO 2014 and 2017 split the same images differently: 35,504 of the 40,504 images of val2014 are in train2017.
    They are encoded differently there, so a comparison of pixels misses them.
    """
    hashes, numbers = {row["sha256"] for row in validation}, _coco_numbers(validation)
    shared_hashes: set[str] = set()
    shared_numbers: set[int] = set()
    for row in training:  # streamed: the training index can be large
        shared_hashes |= {row["sha256"]} & hashes
        shared_numbers |= _coco_numbers([row]) & numbers
    if shared_hashes:
        raise InputError(
            f"data/images: {len(shared_hashes)} images are both in training and in validation; "
            "remove them from one of the archives"
        )
    if shared_numbers:
        raise InputError(
            f"data/images: {len(shared_numbers)} validation images are training images of COCO under a different "
            f"name, such as number {min(shared_numbers)}; after training on train2017 validate with val2017, never "
            "with val2014"
        )


def check_no_copies(model: str, generated: Iterable[Row], real: Iterable[Row]) -> None:
    """Check that no generated image has exactly the pixels of a real one. Rows have the `sha256` of their pixels."""
    images = {row["sha256"]: f"{row['dataset']}-{row['id']}" for row in generated}
    for row in real:
        if row["sha256"] in images:
            raise InputError(
                f"data/generated/{model}: the image for {images[row['sha256']]} is a copy of {row['split']} image "
                f"{row['id']} of {row['dataset']}; run `dvc repro --force --single-item generate-{model}`"
            )


def check_same_task(generated: Mapping[str, Sequence[Row]]) -> None:
    """Check that base and tuned used the same captions and seeds. generated: model -> index of data/generated."""
    tasks = {model: [(row["id"], row["prompt"], row["seed"]) for row in rows] for model, rows in generated.items()}
    if tasks["base"] != tasks["tuned"]:
        raise InputError("data/generated: base and tuned used different captions or seeds; run `dvc repro`")


def check_rank(protocol: Mapping[str, Any]) -> None:
    """Check that a distance reported as `fid` has covariances of full rank."""
    if protocol["frechet_key"] == "fid" and protocol["rank_deficient"]:
        raise InputError(
            f"params.yaml: generate.images is {protocol['n']}, but a FID needs more images than its "
            f"{protocol['features']} features; raise it or choose a different fid.extractor"
        )


def check_plausible(model: str, distance: float, floor: float) -> None:
    """Check that a model does not score far better than real images do. floor: distance of real training images."""
    if distance < floor / 2:
        raise InputError(
            f"data/generated/{model}: its distance to the validation images, {distance:.5g}, is less than half of the "
            f"{floor:.5g} of real images; check whether the images are copies"
        )


def _coco_numbers(rows: Iterable[Row]) -> set[int]:
    return {int(found[1]) for row in rows if (found := COCO_NUMBER.search(row["id"]))}
