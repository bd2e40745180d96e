import json
from pathlib import Path

import pytest

from finetune.coco import ANNOTATIONS, list_coco
from finetune.errors import InputError
from tests.archives import PHOTOS, coco_json, needs_photos, picture, write_coco, write_zip

MEMBER = "annotations/captions_train2017.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {7: picture(7), 3: picture(3)}, {5: picture(5)})


def replace_captions(folder: Path, content: bytes) -> None:
    write_zip(folder / ANNOTATIONS, {MEMBER: content, "annotations/captions_val2017.json": coco_json({5: ["a"]})})


def test_train2017_trains_and_val2017_validates(folder: Path) -> None:
    listing = list_coco(folder)
    assert [(original.id, original.split) for original in listing.originals] == [
        ("000000000003", "train"),
        ("000000000007", "train"),
        ("000000000005", "validation"),
    ]
    assert listing.originals[2].read() == picture(5)


def test_captions_keep_their_annotation_order_and_their_whitespace(folder: Path) -> None:
    content = json.loads(coco_json({3: ["first", " second\n"], 7: ["other"]}))
    content["annotations"].reverse()
    replace_captions(folder, json.dumps(content).encode())
    assert list_coco(folder).originals[0].captions == ("first", " second\n")


def test_captions_without_image_and_image_without_captions_are_left_out(folder: Path) -> None:
    content = json.loads(coco_json({3: ["text"], 9: ["text"]}))
    content["annotations"].append({"id": 99, "image_id": 11, "caption": "of an image that the list lacks"})
    replace_captions(folder, json.dumps(content).encode())
    assert list_coco(folder).dropped == {
        "no_image": ["000000000009.jpg", "000000000011.jpg"],
        "no_caption": ["000000000007.jpg"],
    }


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"images": [', "Invalid JSON"),
        (b'{"images": []}', "annotations: "),
        (b'{"images": [{"id": "7", "file_name": "7.jpg"}], "annotations": []}', r"images\.0\.id: "),
        (b"\xff\xfe", "Invalid JSON"),
    ],
)
def test_a_captions_file_of_another_form_is_named(folder: Path, content: bytes, fault: str) -> None:
    replace_captions(folder, content)
    with pytest.raises(InputError, match=rf"{ANNOTATIONS}: {MEMBER}: .*{fault}"):
        list_coco(folder)


def test_a_missing_captions_file_is_named(folder: Path) -> None:
    write_zip(folder / ANNOTATIONS, {"annotations/instances_train2017.json": b"{}"})
    with pytest.raises(InputError, match=f"{ANNOTATIONS}: holds no {MEMBER}"):
        list_coco(folder)


@needs_photos
def test_real_coco_is_listed_whole() -> None:
    listing = list_coco(PHOTOS / "coco")
    assert [sum(original.split == split for original in listing.originals) for split in ("train", "validation")] == [
        40,
        80,
    ]
    assert listing.dropped == {}
    assert all(5 <= len(original.captions) <= 7 for original in listing.originals)
    assert listing.originals[0].id == "000000000790"
    assert listing.originals[0].read()[:2] == b"\xff\xd8"
