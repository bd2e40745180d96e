import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from finetune.datasets.imagefolder import index_imagefolder
from finetune.errors import InputError
from tests.builders.archives import image_bytes, listed, write_zip


def jsonl(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def own(folder: Path, metadata: bytes, *names: str) -> Path:
    write_zip(folder / "own.zip", {"metadata.jsonl": metadata} | {name: image_bytes(0) for name in names})
    return folder


def test_pictures_come_with_one_caption_or_several(tmp_path: Path) -> None:
    metadata = jsonl(
        {"file_name": "cats/1.jpg", "text": "a cat", "license": "mine"},
        {"file_name": "2.png", "text": ["two cats", "cats that play"]},
    )
    found = listed(index_imagefolder, own(tmp_path, metadata, "cats/1.jpg", "2.png"))
    assert {original.id: original.captions for original in found.originals} == {
        "cats/1": ("a cat",),
        "2": ("two cats", "cats that play"),
    }
    assert {original.split for original in found.originals} == {"train"}
    assert found.originals[0].read() == image_bytes(0)
    assert found.dropped == {}


def test_a_folder_s_name_holds_pictures_out(tmp_path: Path) -> None:
    names = [f"{folder}/1.jpg" for folder in ("train", "validation", "val", "test", "dev/new", "latest")]
    metadata = jsonl(*({"file_name": name, "text": "a cat"} for name in names))
    found = listed(index_imagefolder, own(tmp_path, metadata, *names))
    assert {original.id for original in found.originals if original.split == "train"} == {"train/1", "latest/1"}


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
    found = listed(index_imagefolder, tmp_path)
    assert [(original.id, original.split, original.captions, original.read()) for original in found.originals] == [
        ("mine/train/1", "train", ("one",), b"1"),
        ("mine/test/1", "validation", ("other",), b"2"),
    ]


def test_what_does_not_fit_together_is_left_out_under_its_reason(tmp_path: Path) -> None:
    metadata = jsonl(
        {"file_name": "1.jpg", "text": "a cat"},
        {"file_name": "absent.jpg", "text": "a cat"},
        {"file_name": "blank.jpg", "text": [" ", ""]},
    )
    found = listed(index_imagefolder, own(tmp_path, metadata, "1.jpg", "blank.jpg", "unlisted.jpg"))
    assert [original.id for original in found.originals] == ["1"]
    assert found.dropped == {"no_caption": ["blank.jpg", "unlisted.jpg"], "no_image": ["absent.jpg"]}


def test_several_archives_are_one_data_set(tmp_path: Path) -> None:
    for name in ("b", "a"):
        metadata = jsonl({"file_name": f"{name}.jpg", "text": name}, {"file_name": "same.jpg", "text": name})
        write_zip(tmp_path / f"{name}.zip", {"metadata.jsonl": metadata, f"{name}.jpg": b"", "same.jpg": b""})
    found = listed(index_imagefolder, tmp_path)
    assert [(original.id, original.captions) for original in found.originals] == [
        ("a", ("a",)),
        ("b", ("b",)),
        ("same", ("a",)),
    ]
    assert found.dropped == {"same_name": ["same.jpg"]}


def test_the_mark_that_windows_puts_before_utf_8_is_no_part_of_it(tmp_path: Path) -> None:
    metadata = b"\xef\xbb\xbf" + jsonl({"file_name": "é.jpg", "text": "a cät"}).replace(b"\n", b"\r\n")
    (original,) = listed(index_imagefolder, own(tmp_path, metadata, "é.jpg")).originals
    assert (original.id, original.captions) == ("é", ("a cät",))


@pytest.mark.parametrize("name", ["/etc/1.jpg", "../1.jpg", "a/../../1.jpg", "a\\1.jpg", "a\n1.jpg"])
def test_a_member_whose_path_leads_out_is_left_out(name: str, tmp_path: Path) -> None:
    metadata = jsonl({"file_name": "1.jpg", "text": "a cat"})
    found = listed(index_imagefolder, own(tmp_path, metadata, "1.jpg", name))
    assert [original.id for original in found.originals] == ["1"]
    assert found.dropped == {"unsafe_name": [name]}


def test_metadata_outside_of_the_archive_is_none(tmp_path: Path) -> None:
    write_zip(tmp_path / "own.zip", {"../metadata.jsonl": b"", "__MACOSX/metadata.jsonl": b"", "1.jpg": b""})
    with pytest.raises(InputError, match=r"own\.zip: holds no metadata\.jsonl; .*docs/own-data\.md"):
        listed(index_imagefolder, tmp_path)


@pytest.mark.parametrize(
    ("line", "fault"),
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
def test_a_wrong_line_is_named(line: bytes, fault: str, tmp_path: Path) -> None:
    metadata = jsonl({"file_name": "1.jpg", "text": "a cat"}) + b"\n" + line
    with pytest.raises(InputError, match=rf"own\.zip: metadata\.jsonl, line 3.*{fault}"):
        listed(index_imagefolder, own(tmp_path, metadata, "1.jpg"))


def test_a_link_inside_is_left_out(tmp_path: Path) -> None:
    own(tmp_path, jsonl({"file_name": "1.jpg", "text": "a cat"}))
    with zipfile.ZipFile(tmp_path / "own.zip", "a") as archive:
        link = zipfile.ZipInfo("1.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert listed(index_imagefolder, tmp_path).dropped == {"no_image": ["1.jpg"], "unsafe_name": ["1.jpg"]}
