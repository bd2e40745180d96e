"""Arbitrary archives, folders and locations."""

import os
import random
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.datasets.folder_zip import archive_folder
from finetune.datasets.scene_archives import draw_archive
from finetune.datasets.zip_reader import DAMAGED, UnknownCompressionError, members, open_text, read_lines, read_member
from finetune.errors import InputError
from finetune.params import Archive
from stages.fetch import fetch_files
from tests.builders.archives import image_bytes, write_flickr8k
from tests.builders.preprocessed import TOLERANT, read_dropped, run
from tests.fuzz.answers import result_or_fault
from tests.fuzz.damage import damaged

CONTENTS = {"list.txt": b"one\ntwo\n" * 9, "a/ü.jpg": bytes(99), "b.jpg": random.Random(0).randbytes(50)}


def read_all(archive: Path) -> None:
    for member in members(archive):
        try:
            assert len(read_member(archive, member)) <= member.size
        except (*DAMAGED, UnknownCompressionError):
            continue


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_a_damaged_zip(seed: int, packed: bool, large: bool) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
            for name, content in CONTENTS.items():
                with archive.open(name, "w", force_zip64=large) as member:
                    member.write(content)
        path.write_bytes(damaged(path.read_bytes(), rng))
        result_or_fault(lambda: read_all(path), str(path))
        result_or_fault(lambda: list(read_lines(path, "list.txt")), str(path))


@settings(max_examples=100)
@given(st.binary())
@example(b"PK\x05\x06" + bytes(18))
@example(b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + bytes(18))
@example(b"PK\x03\x04")
def test_any_bytes_as_a_zip(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        path.write_bytes(content)
        result_or_fault(lambda: read_all(path), str(path))


def test_long_extra_fields_are_skipped_quickly(tmp_path: Path) -> None:
    """Every member has 64 KB of empty extra fields."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(300):
            info = zipfile.ZipInfo(f"{i}.jpg")
            info.extra = b"\xfe\xca\x00\x00" * 16_000
            archive.writestr(info, b"")
    start = time.process_time()
    assert len(list(members(path))) == 300
    assert time.process_time() - start < 3


def test_a_folder_instead_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()

    def read() -> None:
        with open_text(tmp_path / "a.zip", "list.txt"):
            pass

    assert isinstance(result_or_fault(read, str(tmp_path / "a.zip")), InputError)


@settings(max_examples=150)
@given(
    st.sampled_from(
        ["scenes:", "scenes:coco?train=1&validation=", "scenes:coco?", "package:", "package:json/", "a://"]
    ),
    st.text() | st.text(alphabet="/.[]:&=?0123456789"),
)
@example("scenes:", "//[")
@example("scenes:coco?train=1&validation=", "1" * 5000)
@example("scenes:coco?train=1&validation=", "\N{ARABIC-INDIC DIGIT ONE}")
@example("package:", "")
@example("package:", ".json/a")
@example("package:", "json/../os.py")
@example("package:", "sys/a")
@example("package:", "\x00/\x00")
@example("package:json/", "a\x00")
@example("package:json/", "a" * 5000)
@example("package:", "xml/etree")
@example("", "no-such/" * 1000)
@example("", "no\x00such")
@example("", "\ud800")
def test_any_location(kind: str, rest: str) -> None:
    archive = archive_or_none(kind + rest)
    if archive is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "raw"
        result_or_fault(lambda: fetch_files({"annotations_trainval2017.zip": archive}, out))
        assert not out.exists() or kind == "scenes:"


def archive_or_none(location: str) -> Archive | None:
    """Return None if params.yaml would be rejected."""
    try:
        return Archive(location=location, checksum=f"sha256:{'0' * 64}", bytes=None)
    except ValueError:
        return None


@settings(max_examples=60)
@given(st.text())
@example("../x.zip")
def test_any_name_of_a_synthetic_archive(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = "scenes:coco?train=1&validation=1"
        result: Any = result_or_fault(lambda: draw_archive(location, name, Path(folder) / "a.zip"), "fetch.coco")
        assert isinstance(result, InputError)


@pytest.mark.parametrize("name", [b"\xff.jpg", b"a\nb.jpg", b"\xed\xa0\x80.jpg", b"a\\b.jpg", b"a" * 255])
def test_any_file_name_in_a_folder(name: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(b"1")
    result = result_or_fault(lambda: archive_folder(folder, tmp_path / "own.zip"), str(folder))
    if not isinstance(result, InputError):
        with zipfile.ZipFile(tmp_path / "own.zip") as archive:
            assert [(info.filename.encode(), archive.read(info)) for info in archive.infolist()] == [(name, b"1")]
    assert isinstance(result, InputError) == (b"\xff" in name or b"\xed" in name)


def rename_last(archive: Path, name: bytes) -> None:
    """Replace the last member's name by one of the same length."""
    content = bytearray(archive.read_bytes())
    for signature, header in ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46)):
        start = content.rfind(signature) + header
        content[start : start + len(name)] = name
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        ([b"../../a.jpg", b"/a.jpg", b"\0/a.jpg"], {}),  # only the file name counts
        ([b"a\n.jpg"], {"no_caption": ["a\n.jpg"], "no_image": ["a.jpg"]}),
        ([b"\xff.jpg"], {"no_caption": ["\N{NO-BREAK SPACE}.jpg"], "no_image": ["a.jpg"]}),
        ([b"\0", b".jpg", b"..\\a.jpg", b"a.jpg/..", b"/", b"..", b".", b"a" * 60_000], {"no_image": ["a.jpg"]}),
    ],
    ids=["used", "a line break", "not UTF-8", "no image"],
)
def test_any_member_name_is_used_or_dropped_and_nothing_is_written_elsewhere(
    names: list[bytes], dropped: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS", "1")
    for i, name in enumerate(names):
        raw = tmp_path / str(i) / "raw"
        images_by_name = {"b.jpg": image_bytes(2), "Q" * len(name): image_bytes(1)}
        lists = {"train": "a.jpg\nb.jpg\n", "dev": "", "test": ""}
        write_flickr8k(raw, images_by_name, "a.jpg#0\tone\nb.jpg#0\ttwo\n", lists)
        rename_last(raw / "Flickr8k_Dataset.zip", name)
        images, rows = run(raw, TOLERANT.model_copy(update={"format": "flickr8k"}), "flickr8k")
        assert read_dropped(images)["dropped"] == dropped
        assert [row["member"] for row in rows] == (["b.jpg"] if dropped else ["a.jpg", "b.jpg"])
        assert {path.name for path in raw.parent.iterdir()} == {"raw", "images", "cache", "metrics.json"}
    assert {path.name for path in tmp_path.iterdir()} == {str(i) for i in range(len(names))}
