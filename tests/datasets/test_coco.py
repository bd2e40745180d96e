import json
from pathlib import Path

import pytest

from finetune.datasets.coco import ANNOTATIONS, index_coco
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, coco_json, image_bytes, needs_photos, read_catalog, write_coco, write_zip

MEMBER = "annotations/captions_train2017.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {7: image_bytes(7), 3: image_bytes(3)}, {5: image_bytes(5)})


def replace_captions(folder: Path, content: bytes) -> None:
    write_zip(folder / ANNOTATIONS, {MEMBER: content, "annotations/captions_val2017.json": coco_json({5: ["a"]})})


def test_train2017_is_train_and_val2017_is_validation(folder: Path) -> None:
    catalog = read_catalog(index_coco, folder)
    assert [(image.id, image.split) for image in catalog.source_images] == [
        ("000000000003", "train"),
        ("000000000007", "train"),
        ("000000000005", "validation"),
    ]
    assert catalog.source_images[2].read() == image_bytes(5)


def test_captions_are_ordered_by_annotation_id_and_keep_whitespace(folder: Path) -> None:
    content = json.loads(coco_json({3: ["first", " second\n"], 7: ["other"]}))
    content["annotations"].reverse()
    replace_captions(folder, json.dumps(content).encode())
    assert read_catalog(index_coco, folder).source_images[0].captions == ("first", " second\n")


ENTRY = '"images": [{"id": 3, "file_name": "000000000003.jpg"}]'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>404</html>", "not JSON: "),
        (b'{"images": [', "not JSON: "),
        (b"\xff\xfe", "not JSON: "),
        (
            f'{{{ENTRY}, "annotations": [{{"id": 1, "image_id": 3, "caption": "\xe9"}}]}}'.encode("latin-1"),
            "not JSON: ",
        ),
        (b"[1, 2]", "contains no images"),
        (b'{"images": [], "annotations": []}', "contains no images"),
        (f"{{{ENTRY}}}".encode(), "contains no annotations"),
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
def test_a_malformed_captions_file_is_an_input_error(folder: Path, content: bytes, problem: str) -> None:
    replace_captions(folder, content)
    with pytest.raises(InputError, match=rf"{ANNOTATIONS}: {MEMBER}: .*{problem}"):
        read_catalog(index_coco, folder)


def test_a_missing_captions_file_is_an_input_error(folder: Path) -> None:
    write_zip(folder / ANNOTATIONS, {"annotations/instances_train2017.json": b"{}"})
    with pytest.raises(InputError, match=f"{ANNOTATIONS}: contains no {MEMBER}"):
        read_catalog(index_coco, folder)


def test_a_lone_surrogate_in_a_caption_is_replaced(folder: Path) -> None:
    """Python strings can contain lone surrogates; SQLite and Parquet cannot."""
    content = coco_json({3: ["half CAPTION"], 7: ["whole"]}).replace(b"CAPTION", b"\\ud83d")
    replace_captions(folder, content)
    assert read_catalog(index_coco, folder).source_images[0].captions == ("half ?",)


@needs_photos
def test_real_coco_is_indexed_completely() -> None:
    catalog = read_catalog(index_coco, PHOTOS / "coco")
    assert [sum(image.split == split for image in catalog.source_images) for split in ("train", "validation")] == [
        40,
        80,
    ]
    assert catalog.dropped == {}
    assert all(5 <= len(image.captions) <= 7 for image in catalog.source_images)
    assert catalog.source_images[0].id == "000000000790"
    assert catalog.source_images[0].read()[:2] == b"\xff\xd8"
