import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.datasets.catalog import Catalog, DroppedError, SourceImage, Split, file_name
from finetune.datasets.zip_reader import members
from tests.builders.archives import CatalogContents, read_catalog, write_zip

Splits = dict[str, Split]


def match(archive: Path, captions: dict[str, list[str]], splits: Splits) -> CatalogContents:
    return read_catalog(lambda _, catalog: add(catalog, archive, captions, splits), archive.parent)


def add(catalog: Catalog, archive: Path, captions: dict[str, list[str]], splits: Splits) -> None:
    texts = ((name, number, text) for name, texts in captions.items() for number, text in enumerate(texts))
    catalog.add(archive, file_name, splits.items(), texts)


def test_source_images_are_ordered_by_split_and_id(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/c.jpg": b"3", "x/a.jpg": b"1", "x/b.jpg": b"2"})
    captions = {name: ["text"] for name in ("a.jpg", "b.jpg", "c.jpg")}
    catalog = match(archive, captions, {"a.jpg": "validation", "b.jpg": "train", "c.jpg": "train"})
    assert [(image.id, image.split) for image in catalog.source_images] == [
        ("b", "train"),
        ("c", "train"),
        ("a", "validation"),
    ]
    assert [image.read() for image in catalog.source_images] == [b"2", b"3", b"1"]


def test_images_captions_and_splits_that_do_not_match_are_dropped(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/silent.jpg": b"", "x/homeless.jpg": b"", "x/good.jpg": b""})
    captions = {"good.jpg": ["text"], "homeless.jpg": ["text"], "ghost.jpg.1": ["text"], "silent.jpg": [" \n"]}
    catalog = match(archive, captions, {"good.jpg": "train", "silent.jpg": "train", "listed.jpg": "train"})
    assert [image.name for image in catalog.source_images] == ["good.jpg"]
    assert catalog.dropped == {
        "no_image": ["ghost.jpg.1", "listed.jpg"],
        "no_caption": ["silent.jpg"],
        "no_split": ["homeless.jpg"],
    }


def test_macos_shadow_files_and_folders_are_ignored(tmp_path: Path) -> None:
    files = {"x/": b"", "x/a.jpg": b"real", "__MACOSX/x/a.jpg": b"shadow", "x/._a.jpg": b"shadow", "x/notes.txt": b""}
    catalog = match(write_zip(tmp_path / "a.zip", files), {"a.jpg": ["text"]}, {"a.jpg": "train"})
    assert [image.read() for image in catalog.source_images] == [b"real"]
    assert catalog.dropped == {}


def test_a_symbolic_link_is_dropped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("x/a.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    catalog = match(tmp_path / "a.zip", {"a.jpg": ["text"]}, {"a.jpg": "train"})
    assert catalog.source_images == []
    assert catalog.dropped == {"no_image": ["a.jpg"], "unsafe_name": ["x/a.jpg"]}


@pytest.mark.parametrize("member", ["/etc/a.jpg", "../../a.jpg", "x/../a.jpg", "C:/a.jpg"])
def test_a_path_outside_the_archive_is_only_a_name(member: str, tmp_path: Path) -> None:
    """Nothing is ever extracted to a path from an archive."""
    (image,) = match(
        write_zip(tmp_path / "a.zip", {member: b"1"}), {"a.jpg": ["text"]}, {"a.jpg": "train"}
    ).source_images
    assert (image.id, image.name, image.read()) == ("a", "a.jpg", b"1")


def test_of_two_images_with_one_name_the_validation_image_is_kept_else_the_first(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"x/same.jpg": b"1", "y/same.jpg": b"2", "x/other.jpg": b"3", "x/other.png": b"4"})
    write_zip(tmp_path / "b.zip", {"x/same.jpg": b"5", "x/other.jpg": b"6"})

    def fill(folder: Path, catalog: Catalog) -> None:
        names: list[str] = ["same.jpg", "other.jpg", "other.png"]
        add(catalog, folder / "a.zip", {name: ["of a"] for name in names}, dict.fromkeys(names, "train"))
        add(catalog, folder / "b.zip", {"same.jpg": ["of b"], "other.jpg": ["of b"]}, {"same.jpg": "validation"})

    catalog = read_catalog(fill, tmp_path)
    assert [(image.id, image.split, image.captions, image.read()) for image in catalog.source_images] == [
        ("other", "train", ("of a",), b"3"),
        ("same", "validation", ("of b",), b"5"),
    ]
    assert catalog.dropped == {"no_split": ["other.jpg"], "same_name": ["x/other.png", "x/same.jpg", "y/same.jpg"]}


def shards(tmp_path: Path, names: list[str], count: int) -> dict[str, int]:
    catalog = Catalog(tmp_path / f"{len(names)}-{count}.sqlite")
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b""))
    add(catalog, archive, {name: ["text"] for name in names}, dict.fromkeys(names, "train"))
    catalog.finalize(count)
    return {image.id: number for split, number in catalog.shards() for image in catalog.source_images(split, number)}


def test_the_shard_depends_only_on_the_id(tmp_path: Path) -> None:
    names = [f"{i:012d}.jpg" for i in range(600)]
    before = shards(tmp_path, names[:590], 6)
    after = shards(tmp_path, names, 6)
    assert before.items() < after.items()


def test_shards_have_similar_sizes(tmp_path: Path) -> None:
    numbers = list(shards(tmp_path, [f"{i:012d}.jpg" for i in range(1200)], 6).values())
    assert all(150 < numbers.count(number) < 250 for number in range(6))


def with_archive_edited(tmp_path: Path, edit: Callable[[bytes], bytes]) -> SourceImage:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"content"})
    archive.write_bytes(edit(archive.read_bytes()))
    (image,) = match(archive, {"a.jpg": ["text"]}, {"a.jpg": "train"}).source_images
    return image


def test_a_wrong_archive_checksum_drops_the_image(tmp_path: Path) -> None:
    with pytest.raises(DroppedError, match="damaged_in_archive"):
        with_archive_edited(tmp_path, lambda content: content.replace(b"content", b"c0ntent")).read()


def test_an_oversized_file_is_dropped_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.datasets.catalog.MAX_FILE_SIZE", 6)
    with pytest.raises(DroppedError, match="too_large"):
        with_archive_edited(tmp_path, lambda content: content).read()


def test_an_unsupported_compression_drops_the_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.jpg", bytes(100))
    (member,) = members(tmp_path / "a.zip")
    with pytest.raises(DroppedError, match="unknown_compression"):
        SourceImage("a", "train", ("text",), tmp_path / "a.zip", member).read()
