import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.datasets.catalog import Catalog, DroppedError, SourceImage, Split, file_name
from finetune.datasets.zip_reader import members
from tests.builders.archives import Listed, listed, write_zip

Splits = dict[str, Split]


def match(archive: Path, captions: dict[str, list[str]], splits: Splits) -> Listed:
    return listed(lambda _, listing: add(listing, archive, captions, splits), archive.parent)


def add(listing: Catalog, archive: Path, captions: dict[str, list[str]], splits: Splits) -> None:
    texts = ((name, number, text) for name, texts in captions.items() for number, text in enumerate(texts))
    listing.add(archive, file_name, splits.items(), texts)


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
    captions = {"good.jpg": ["text"], "homeless.jpg": ["text"], "ghost.jpg.1": ["text"], "silent.jpg": [" \n"]}
    listing = match(archive, captions, {"good.jpg": "train", "silent.jpg": "train", "listed.jpg": "train"})
    assert [original.name for original in listing.originals] == ["good.jpg"]
    assert listing.dropped == {
        "no_image": ["ghost.jpg.1", "listed.jpg"],
        "no_caption": ["silent.jpg"],
        "no_split": ["homeless.jpg"],
    }


def test_shadow_files_of_macos_and_folders_are_no_pictures(tmp_path: Path) -> None:
    files = {"x/": b"", "x/a.jpg": b"real", "__MACOSX/x/a.jpg": b"shadow", "x/._a.jpg": b"shadow", "x/notes.txt": b""}
    listing = match(write_zip(tmp_path / "a.zip", files), {"a.jpg": ["text"]}, {"a.jpg": "train"})
    assert [original.read() for original in listing.originals] == [b"real"]
    assert listing.dropped == {}


def test_a_link_is_no_picture(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("x/a.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    listing = match(tmp_path / "a.zip", {"a.jpg": ["text"]}, {"a.jpg": "train"})
    assert listing.originals == []
    assert listing.dropped == {"no_image": ["a.jpg"], "unsafe_name": ["x/a.jpg"]}


@pytest.mark.parametrize("member", ["/etc/a.jpg", "../../a.jpg", "x/../a.jpg", "C:/a.jpg"])
def test_a_path_that_leads_out_of_the_archive_is_a_name_like_any_other(member: str, tmp_path: Path) -> None:
    """Nothing is ever unpacked to a path that an archive names."""
    (original,) = match(
        write_zip(tmp_path / "a.zip", {member: b"1"}), {"a.jpg": ["text"]}, {"a.jpg": "train"}
    ).originals
    assert (original.id, original.name, original.read()) == ("a", "a.jpg", b"1")


def test_of_two_pictures_of_one_name_the_held_out_one_stays_else_the_first(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"x/same.jpg": b"1", "y/same.jpg": b"2", "x/other.jpg": b"3", "x/other.png": b"4"})
    write_zip(tmp_path / "b.zip", {"x/same.jpg": b"5", "x/other.jpg": b"6"})

    def fill(folder: Path, listing: Catalog) -> None:
        names: list[str] = ["same.jpg", "other.jpg", "other.png"]
        add(listing, folder / "a.zip", {name: ["of a"] for name in names}, dict.fromkeys(names, "train"))
        add(listing, folder / "b.zip", {"same.jpg": ["of b"], "other.jpg": ["of b"]}, {"same.jpg": "validation"})

    listing = listed(fill, tmp_path)
    assert [(original.id, original.split, original.captions, original.read()) for original in listing.originals] == [
        ("other", "train", ("of a",), b"3"),
        ("same", "validation", ("of b",), b"5"),
    ]
    assert listing.dropped == {"no_split": ["other.jpg"], "same_name": ["x/other.png", "x/same.jpg", "y/same.jpg"]}


def shards(tmp_path: Path, names: list[str], count: int) -> dict[str, int]:
    listing = Catalog(tmp_path / f"{len(names)}-{count}.sqlite")
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b""))
    add(listing, archive, {name: ["text"] for name in names}, dict.fromkeys(names, "train"))
    listing.finalize(count)
    return {original.id: number for split, number in listing.shards() for original in listing.originals(split, number)}


def test_an_id_alone_decides_on_the_shard(tmp_path: Path) -> None:
    names = [f"{i:012d}.jpg" for i in range(600)]
    before = shards(tmp_path, names[:590], 6)
    after = shards(tmp_path, names, 6)
    assert before.items() < after.items()


def test_shards_are_of_nearly_one_size(tmp_path: Path) -> None:
    numbers = list(shards(tmp_path, [f"{i:012d}.jpg" for i in range(1200)], 6).values())
    assert all(150 < numbers.count(number) < 250 for number in range(6))


def spoilt(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> SourceImage:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"content"})
    archive.write_bytes(spoil(archive.read_bytes()))
    (original,) = match(archive, {"a.jpg": ["text"]}, {"a.jpg": "train"}).originals
    return original


def test_a_picture_that_the_archive_itself_finds_damaged_is_a_drop(tmp_path: Path) -> None:
    with pytest.raises(DroppedError, match="damaged_in_archive"):
        spoilt(tmp_path, lambda content: content.replace(b"content", b"c0ntent")).read()


def test_a_picture_of_a_size_that_none_has_is_a_drop_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.datasets.catalog.LARGEST", 6)
    with pytest.raises(DroppedError, match="too_large"):
        spoilt(tmp_path, lambda content: content).read()


def test_a_compression_that_could_hold_a_bomb_is_a_drop(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.jpg", bytes(100))
    (member,) = members(tmp_path / "a.zip")
    with pytest.raises(DroppedError, match="unknown_compression"):
        SourceImage("a", "train", ("text",), tmp_path / "a.zip", member).read()
