import json
from pathlib import Path
from typing import Any

import pytest

from finetune.datasets.imagefolder import index_imagefolder
from finetune.errors import InputError
from tests.builders.archives import image_bytes, read_catalog, write_zip


def jsonl(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def own(folder: Path, metadata: bytes, *names: str) -> Path:
    write_zip(folder / "own.zip", {"metadata.jsonl": metadata} | {name: image_bytes(0) for name in names})
    return folder


def test_an_image_has_one_caption_or_several(tmp_path: Path) -> None:
    metadata = jsonl(
        {"file_name": "cats/1.jpg", "text": "a cat", "license": "mine"},
        {"file_name": "2.png", "text": ["two cats", "cats that play"]},
    )
    found = read_catalog(index_imagefolder, own(tmp_path, metadata, "cats/1.jpg", "2.png"))
    assert {image.id: image.captions for image in found.source_images} == {
        "cats/1": ("a cat",),
        "2": ("two cats", "cats that play"),
    }
    assert {image.split for image in found.source_images} == {"train"}
    assert found.source_images[0].read() == image_bytes(0)
    assert found.dropped == {}


def test_the_folder_name_selects_validation_images(tmp_path: Path) -> None:
    names = [f"{folder}/1.jpg" for folder in ("train", "validation", "val", "test", "dev/new", "latest")]
    metadata = jsonl(*({"file_name": name, "text": "a cat"} for name in names))
    found = read_catalog(index_imagefolder, own(tmp_path, metadata, *names))
    assert {image.id for image in found.source_images if image.split == "train"} == {"train/1", "latest/1"}


def test_file_names_are_relative_to_their_metadata(tmp_path: Path) -> None:
    write_zip(
        tmp_path / "own.zip",
        {
            "mine/train/metadata.jsonl": jsonl({"file_name": "./1.jpg", "text": "one"}),
            "mine/test/metadata.jsonl": jsonl({"file_name": "1.jpg", "text": "other"}),
            "mine/train/1.jpg": b"1",
            "mine/test/1.jpg": b"2",
        },
    )
    found = read_catalog(index_imagefolder, tmp_path)
    assert [(image.id, image.split, image.captions, image.read()) for image in found.source_images] == [
        ("mine/train/1", "train", ("one",), b"1"),
        ("mine/test/1", "validation", ("other",), b"2"),
    ]


def test_several_archives_form_one_dataset(tmp_path: Path) -> None:
    for name in ("b", "a"):
        metadata = jsonl({"file_name": f"{name}.jpg", "text": name}, {"file_name": "same.jpg", "text": name})
        write_zip(tmp_path / f"{name}.zip", {"metadata.jsonl": metadata, f"{name}.jpg": b"", "same.jpg": b""})
    found = read_catalog(index_imagefolder, tmp_path)
    assert [(image.id, image.captions) for image in found.source_images] == [
        ("a", ("a",)),
        ("b", ("b",)),
        ("same", ("a",)),
    ]
    assert found.dropped == {"same_name": ["same.jpg"]}


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    metadata = b"\xef\xbb\xbf" + jsonl({"file_name": "é.jpg", "text": "a cät"}).replace(b"\n", b"\r\n")
    (image,) = read_catalog(index_imagefolder, own(tmp_path, metadata, "é.jpg")).source_images
    assert (image.id, image.captions) == ("é", ("a cät",))


@pytest.mark.parametrize("name", ["/etc/1.jpg", "../1.jpg", "a/../../1.jpg", "a\\1.jpg", "a\n1.jpg"])
def test_a_member_with_an_unsafe_path_is_dropped(name: str, tmp_path: Path) -> None:
    metadata = jsonl({"file_name": "1.jpg", "text": "a cat"})
    found = read_catalog(index_imagefolder, own(tmp_path, metadata, "1.jpg", name))
    assert [image.id for image in found.source_images] == ["1"]
    assert found.dropped == {"unsafe_name": [name]}


def test_metadata_with_an_unsafe_path_is_ignored(tmp_path: Path) -> None:
    write_zip(tmp_path / "own.zip", {"../metadata.jsonl": b"", "__MACOSX/metadata.jsonl": b"", "1.jpg": b""})
    with pytest.raises(InputError, match=r"own\.zip: contains no metadata\.jsonl; .*docs/own-data\.md"):
        read_catalog(index_imagefolder, tmp_path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b'{"text": "a cat"}', "file_name: Field required"),
        (b'{"file_name": "1.jpg"}', "text: Field required"),
        (b'{"file_name": 1, "text": "a cat"}', "file_name: Input should be a valid string"),
        (b'{"file_name": "1.jpg", "text": [1]}', "text: "),
        (b'{"file_name": "1.jpg", "text": null}', "text: "),
        (b'{"file_name": "../1.jpg", "text": "a cat"}', r"'\.\./1\.jpg' leads out of the archive"),
        (b'{"file_name": "/etc/1.jpg", "text": "a cat"}', r"'/etc/1\.jpg' leads out of the archive"),
        (b'{"file_name": "1.jpg", "text": "' + b"x" * 10_001 + b'"}', "text: .*at most 10000 characters"),
        (b'{"file_name": "1.jpg", "text": "na\xefve"}', "not UTF-8"),
        (b'{"file_name": "1.jpg", "text": "half \\ud83d"}', "Invalid JSON"),
    ],
)
def test_a_wrong_line_is_an_input_error(line: bytes, problem: str, tmp_path: Path) -> None:
    metadata = jsonl({"file_name": "1.jpg", "text": "a cat"}) + b"\n" + line
    with pytest.raises(InputError, match=rf"own\.zip: metadata\.jsonl, line 3.*{problem}"):
        read_catalog(index_imagefolder, own(tmp_path, metadata, "1.jpg"))
