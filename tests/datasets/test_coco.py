import json
from pathlib import Path

import pytest

from finetune.datasets.coco import ANNOTATIONS, index_coco
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, coco_json, image_bytes, listed, needs_photos, write_coco, write_zip

MEMBER = "annotations/captions_train2017.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {7: image_bytes(7), 3: image_bytes(3)}, {5: image_bytes(5)})


def replace_captions(folder: Path, content: bytes) -> None:
    write_zip(folder / ANNOTATIONS, {MEMBER: content, "annotations/captions_val2017.json": coco_json({5: ["a"]})})


def test_train2017_trains_and_val2017_validates(folder: Path) -> None:
    listing = listed(index_coco, folder)
    assert [(original.id, original.split) for original in listing.originals] == [
        ("000000000003", "train"),
        ("000000000007", "train"),
        ("000000000005", "validation"),
    ]
    assert listing.originals[2].read() == image_bytes(5)


def test_captions_keep_their_annotation_order_and_their_whitespace(folder: Path) -> None:
    content = json.loads(coco_json({3: ["first", " second\n"], 7: ["other"]}))
    content["annotations"].reverse()
    replace_captions(folder, json.dumps(content).encode())
    assert listed(index_coco, folder).originals[0].captions == ("first", " second\n")


def test_captions_without_image_and_image_without_captions_are_left_out(folder: Path) -> None:
    content = json.loads(coco_json({3: ["text"], 9: ["text"]}))
    content["annotations"].append({"id": 99, "image_id": 11, "caption": "of an image that the list lacks"})
    replace_captions(folder, json.dumps(content).encode())
    assert listed(index_coco, folder).dropped == {
        "no_caption": ["000000000007.jpg"],
        "no_image": ["000000000009.jpg", "000000000011.jpg"],
    }


ENTRY = '"images": [{"id": 3, "file_name": "000000000003.jpg"}]'


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"<html>404</html>", "not JSON: "),
        (b'{"images": [', "not JSON: "),
        (b"\xff\xfe", "not JSON: "),
        (
            f'{{{ENTRY}, "annotations": [{{"id": 1, "image_id": 3, "caption": "\xe9"}}]}}'.encode("latin-1"),
            "not JSON: ",
        ),
        (b"[1, 2]", "holds no images"),
        (b'{"images": [], "annotations": []}', "holds no images"),
        (f"{{{ENTRY}}}".encode(), "holds no annotations"),
        (b'{"images": [{"id": "7", "file_name": "7.jpg"}]}', r"images\.0\.id: "),
        (b'{"images": [{"id": 7, "file_name": null}]}', r"images\.0\.file_name: "),
        (b'{"images": [{"id": -1, "file_name": "7.jpg"}]}', r"images\.0\.id: "),
        (b'{"images": [{"id": 1e300, "file_name": "7.jpg"}]}', r"images\.0\.id: "),
        (b'{"images": ["7.jpg"]}', r"images\.0: "),
        (f'{{{ENTRY}, "annotations": [{{"id": 1, "image_id": 3}}]}}'.encode(), r"annotations\.0\.caption: "),
        (
            f'{{{ENTRY}, "annotations": [{{"id": 1, "image_id": 3, "caption": "{"long " * 2001}"}}]}}'.encode(),
            r"annotations\.0\.caption: String should have at most 10000 characters",
        ),
    ],
)
def test_a_captions_file_of_another_form_is_named(folder: Path, content: bytes, fault: str) -> None:
    replace_captions(folder, content)
    with pytest.raises(InputError, match=rf"{ANNOTATIONS}: {MEMBER}: .*{fault}"):
        listed(index_coco, folder)


def test_a_missing_captions_file_is_named(folder: Path) -> None:
    write_zip(folder / ANNOTATIONS, {"annotations/instances_train2017.json": b"{}"})
    with pytest.raises(InputError, match=f"{ANNOTATIONS}: holds no {MEMBER}"):
        listed(index_coco, folder)


def test_a_caption_that_no_encoding_can_hold_is_mended(folder: Path) -> None:
    """Half a surrogate pair: Python's strings hold it, neither SQLite nor Parquet do."""
    content = coco_json({3: ["half CAPTION"], 7: ["whole"]}).replace(b"CAPTION", b"\\ud83d")
    replace_captions(folder, content)
    assert listed(index_coco, folder).originals[0].captions == ("half ?",)


def test_blank_captions_are_none(folder: Path) -> None:
    replace_captions(folder, coco_json({3: ["", "text", " \n"], 7: [" "]}))
    found = listed(index_coco, folder)
    assert found.originals[0].captions == ("text",)
    assert found.dropped == {"no_caption": ["000000000007.jpg"]}


@needs_photos
def test_real_coco_is_listed_whole() -> None:
    listing = listed(index_coco, PHOTOS / "coco")
    assert [sum(original.split == split for original in listing.originals) for split in ("train", "validation")] == [
        40,
        80,
    ]
    assert listing.dropped == {}
    assert all(5 <= len(original.captions) <= 7 for original in listing.originals)
    assert listing.originals[0].id == "000000000790"
    assert listing.originals[0].read()[:2] == b"\xff\xd8"
