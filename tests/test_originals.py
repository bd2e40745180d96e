import zipfile
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.originals import DroppedError, Listing, Original, match, open_archive, read_text
from tests.archives import write_zip


def test_originals_come_train_first_and_by_id(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/c.jpg": b"3", "x/a.jpg": b"1", "x/b.jpg": b"2"})
    captions = {name: ["text"] for name in ("a.jpg", "b.jpg", "c.jpg")}
    listing = match(archive, captions, {"a.jpg": "validation", "b.jpg": "train", "c.jpg": "train"})
    assert [(original.id, original.split) for original in listing.originals] == [
        ("b", "train"),
        ("c", "train"),
        ("a", "validation"),
    ]
    assert [original.read() for original in listing.originals] == [b"2", b"3", b"1"]


def test_what_does_not_fit_together_is_left_out_under_its_reason(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/silent.jpg": b"", "x/homeless.jpg": b"", "x/good.jpg": b""})
    captions = {"good.jpg": ["text"], "homeless.jpg": ["text"], "ghost.jpg.1": ["text"], "silent.jpg": []}
    listing = match(archive, captions, {"good.jpg": "train", "silent.jpg": "train", "listed.jpg": "train"})
    assert [original.name for original in listing.originals] == ["good.jpg"]
    assert listing.dropped == {
        "no_image": ["ghost.jpg.1", "listed.jpg"],
        "no_caption": ["silent.jpg"],
        "no_split": ["homeless.jpg"],
    }


def test_shadow_files_of_macos_and_folders_are_no_pictures(tmp_path: Path) -> None:
    members = {"x/": b"", "x/a.jpg": b"real", "__MACOSX/x/a.jpg": b"shadow", "x/._a.jpg": b"shadow", "x/notes.txt": b""}
    listing = match(write_zip(tmp_path / "a.zip", members), {"a.jpg": ["text"]}, {"a.jpg": "train"})
    assert [original.read() for original in listing.originals] == [b"real"]
    assert listing.dropped == {}


def test_listings_add_up() -> None:
    left = Listing((), {"no_image": ["a"]})
    assert (left + Listing((), {"no_image": ["b"], "no_split": ["c"]})).dropped == {
        "no_image": ["a", "b"],
        "no_split": ["c"],
    }


def test_a_missing_archive_is_named() -> None:
    with (
        pytest.raises(InputError, match=r"nowhere/a\.zip: no such archive; run `dvc repro`"),
        open_archive(Path("nowhere/a.zip")),
    ):
        pass


@pytest.mark.parametrize(("keep", "fault"), [(0.5, "the zip file is cut short"), (0, "not a zip file")])
def test_an_archive_that_cannot_be_opened_is_named_with_its_fault(tmp_path: Path, keep: float, fault: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 1000})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=rf"a\.zip: {fault}; correct its location or checksum"), open_archive(archive):
        pass


def test_a_missing_and_a_damaged_member_are_named(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"list.txt": b"content"})
    archive.write_bytes(archive.read_bytes().replace(b"content", b"c0ntent"))
    with zipfile.ZipFile(archive) as file:
        with pytest.raises(InputError, match=r"a\.zip: holds no other\.txt"):
            read_text(file, "other.txt")
        with pytest.raises(InputError, match=r"a\.zip: list\.txt is damaged"):
            read_text(file, "list.txt")


def test_a_picture_that_the_archive_itself_finds_damaged_is_a_drop(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"content"})
    archive.write_bytes(archive.read_bytes().replace(b"content", b"c0ntent"))
    with pytest.raises(DroppedError, match="damaged_in_archive"):
        Original("a", "train", ("text",), archive, "a.jpg").read()
