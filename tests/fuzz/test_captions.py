"""Arbitrary captions in each dataset's format."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.datasets.catalog import Catalog
from finetune.datasets.coco import index_coco
from finetune.datasets.flickr8k import index_flickr8k
from finetune.datasets.imagefolder import index_imagefolder
from finetune.errors import InputError
from finetune.evaluation.coco_masks import read_masks
from tests.builders.archives import CatalogContents, read_catalog, write_zip
from tests.fuzz.answers import JSON, result_or_fault

ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(0, 3) | JSON,
        "image_id": st.integers(0, 3) | JSON,
        "file_name": st.just("000000000001.jpg") | JSON,
        "caption": st.text() | JSON,
        "text": st.text() | st.lists(st.text()) | JSON,
    },
)
TEXT = st.text(alphabet="a1#\t\n\r. jpg\x00\ud800\u2028\ufeff") | st.text()


def read(index: Callable[[Path, Catalog], None], archives: dict[str, dict[str, bytes]]) -> CatalogContents | InputError:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in archives.items():
            write_zip(Path(folder) / name, content)
        return result_or_fault(lambda: read_catalog(index, Path(folder)), folder)


def is_sound(result: CatalogContents | InputError) -> bool:
    """An input error, or images with unique names that each have a caption and a split."""
    if isinstance(result, InputError):
        return True
    names = [image.id for image in result.source_images]
    return len(names) == len({*names}) and all(
        image.split in ("train", "validation") and image.captions for image in result.source_images
    )


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def in_coco(captions: bytes) -> dict[str, dict[str, bytes]]:
    splits = ("train2017", "val2017")
    images = {f"{split}.zip": {f"{split}/000000000001.jpg": b""} for split in splits}
    return images | {
        "annotations_trainval2017.zip": {f"annotations/captions_{split}.json": captions for split in splits}
    }


@settings(max_examples=80)
@given(st.fixed_dictionaries({}, optional={"images": st.lists(ENTRY) | JSON, "annotations": st.lists(ENTRY) | JSON}))
@example({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "\ud800"}]})
@example({"images": [{"id": 1, "file_name": "\x00\n"}], "annotations": [{"id": 1, "image_id": 1, "caption": ""}]})
def test_coco_json(content: Any) -> None:
    assert is_sound(read(index_coco, in_coco(json.dumps(content).encode())))


@settings(max_examples=80)
@given(st.binary() | st.text(alphabet='{}[]",:\\u01eE+-.inalse').map(encoded))
@example(b'{"images": ' + b"[" * 100_000)
@example(b'{"images": [{"id": ' + b"1" * 5000 + b"}]}")
@example(b'{"images": [{"id": 1e999999, "file_name": ""}]}')
@example(b'{"images": [{"id": 1, "file_name": "\\ud800"}]}')
@example(b'{"images": [{"id": 1, "file_name": "\xff"}]}')
@example(b"\xef\xbb\xbf{}")
def test_coco_bytes(content: bytes) -> None:
    assert isinstance(read(index_coco, in_coco(content)), InputError)


NUMBERS = st.integers() | st.floats() | st.integers(-9, 99)
OUTLINES = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 3),
        "category_id": st.integers(0, 3),
        "segmentation": st.lists(st.lists(NUMBERS, max_size=8), max_size=3)
        | st.fixed_dictionaries({"counts": st.lists(st.integers(-1, 20), max_size=4) | st.just([3, 5]) | JSON})
        | JSON,
    }
)
CATEGORY = st.fixed_dictionaries({"id": st.integers(0, 3), "name": st.text()})


@settings(max_examples=200)
@given(
    st.lists(OUTLINES, min_size=1) | st.lists(JSON),
    st.just([{"id": i, "name": f"thing {i}"} for i in range(4)]) | st.lists(CATEGORY | JSON),
    st.integers(1, 5),
)
@example([{"image_id": 0, "category_id": 0, "segmentation": {"counts": [2**62, 2**62]}}], [{"id": 0, "name": "a"}], 2)
def test_coco_outlines(annotations: Any, categories: Any, width: int) -> None:
    content = json.dumps({"annotations": annotations, "categories": categories}).encode()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "annotations_trainval2017.zip"
        write_zip(archive, {"annotations/instances_val2017.json": content})
        sizes = dict.fromkeys(range(3), (width, 4))
        masks = result_or_fault(lambda: read_masks(Path(folder), "val2017", sizes, "center", 8), str(archive))
    assert isinstance(masks, InputError) or all(
        mask.shape == (8, 8) and mask.dtype == bool for categories in masks.values() for mask in categories.values()
    )


@settings(max_examples=80)
@given(TEXT.map(encoded) | st.binary(), TEXT.map(encoded) | st.binary(), st.text(min_size=1))
@example(b"1.jpg#\xd9\xa1\ta\n", b"1.jpg", "1.jpg")
def test_flickr8k_texts(tokens: bytes, names: bytes, image: str) -> None:
    lists = {f"Flickr_8k.{split}Images.txt": names for split in ("train", "dev", "test")}
    archives = {"Flickr8k_Dataset.zip": {f"Flicker8k_Dataset/{encoded(image).decode(errors='replace')}.jpg": b""}}
    archives |= {"Flickr8k_text.zip": {"Flickr8k.token.txt": tokens} | lists}
    assert is_sound(read(index_flickr8k, archives))


@settings(max_examples=80)
@given(
    st.lists((ENTRY | JSON).map(json.dumps) | TEXT),
    st.sampled_from(
        ["metadata.jsonl", "a/metadata.jsonl", "../metadata.jsonl", "a\n/../metadata.jsonl", "/metadata.jsonl"]
    ),
)
@example(['{"file_name": "1.jpg", "text": "\\ud800"}'], "metadata.jsonl")
@example(["[" * 100_000], "metadata.jsonl")
@example(['{"file_name": "' + "../" * 9 + '1.jpg", "text": ""}'], "a\n/../metadata.jsonl")
@example(['{"file_name": "\\n1.jpg", "text": ""}'], "metadata.jsonl")
def test_imagefolder_lines(lines: list[str], member: str) -> None:
    archives = {"own.zip": {member: encoded("\n".join(lines)), "1.jpg": b""}}
    assert is_sound(read(index_imagefolder, archives))
