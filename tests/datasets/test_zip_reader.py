"""The library's own reader is the reference for what is in an archive; what lies about itself is ours to survive."""

import random
import resource
import struct
import zipfile
from pathlib import Path

import pytest

from finetune.datasets.zip_reader import (
    DAMAGED,
    Member,
    UnknownCompressionError,
    members,
    open_text,
    read_lines,
    read_member,
)
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, needs_photos, write_zip

END = b"PK\x05\x06"


def as_the_library_sees_it(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def as_we_see_it(path: Path) -> list[tuple[str, bytes]]:
    return [(member.name, read_member(path, member)) for member in members(path)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_in_the_archive_s_order(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.comment = b"with a comment PK\x05\x06"[:15]
        for name, content in (("b/", b""), ("b/ü.jpg", b"1" * 100_000), ("a.txt", b""), ("\N{SNOWMAN}", b"2")):
            archive.writestr(name, content)
    assert as_we_see_it(tmp_path / "a.zip") == as_the_library_sees_it(tmp_path / "a.zip")


def test_names_from_before_unicode_are_read_as_the_library_does(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"nave.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"nave", b"n\x8bve"))
    assert [member.name for member in members(path)] == ["nïve.jpg"]
    assert [name for name, _ in as_the_library_sees_it(path)] == ["nïve.jpg"]


def test_archives_beyond_4_gigabytes_and_65535_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    contents = {f"{i}.jpg": random.Random(i).randbytes(200) for i in range(5)}
    path = write_zip(tmp_path / "a.zip", contents)
    assert path.read_bytes().count(b"PK\x06\x06") == 1
    assert as_we_see_it(path) == list(contents.items())


@needs_photos
@pytest.mark.parametrize("name", ["coco/val2017.zip", "flickr8k/Flickr8k_Dataset.zip", "flickr8k/Flickr8k_text.zip"])
def test_real_archives_are_read_as_the_library_does(name: str) -> None:
    assert as_we_see_it(PHOTOS / name) == as_the_library_sees_it(PHOTOS / name)


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere/a\.zip: no such archive; run `dvc repro`"):
        list(members(Path("nowhere/a.zip")))


@pytest.mark.parametrize(
    ("keep", "fault"), [(0.9, "the zip file is cut short"), (0.5, "the zip file is cut short"), (0, "not a zip file")]
)
def test_an_archive_that_cannot_be_read_is_named_with_its_fault(tmp_path: Path, keep: float, fault: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 1000})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=rf"a\.zip: {fault}; correct its location or checksum"):
        list(members(archive))


@pytest.mark.parametrize("shift", [-10, 3, 1 << 31])
def test_a_table_of_contents_that_is_not_where_it_should_be_is_refused(shift: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 1000, "b.jpg": b"x"})
    content = bytearray(path.read_bytes())
    at = content.rfind(END) + 16
    content[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", content, at)[0] + shift)
    path.write_bytes(content)
    with pytest.raises(InputError, match="its table of contents is damaged"):
        list(members(path))


def test_a_member_that_lies_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"content"})
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02") + 42
    content[at : at + 4] = struct.pack("<I", len(content))
    path.write_bytes(content)
    with pytest.raises(InputError, match="its table of contents is damaged"):
        list(members(path))


def test_any_damage_is_an_error_that_is_known(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{i}.jpg": bytes([i]) * 50 for i in range(3)})
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            found = list(members(path))
        except InputError:
            continue
        for member in found:
            try:
                assert len(read_member(path, member)) <= member.size
            except (*DAMAGED, UnknownCompressionError):
                continue


def bomb(path: Path, size: int) -> Member:
    """A member of `size` zeros that claims to have 1000."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(size))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    (member,) = members(path)
    return member


def test_a_member_that_lies_about_its_size_is_damaged_and_unpacked_no_further(tmp_path: Path) -> None:
    member = bomb(tmp_path / "a.zip", 100 << 20)
    assert (member.size, member.packed < 1 << 18) == (1000, True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(zipfile.BadZipFile):
        read_member(tmp_path / "a.zip", member)
    with pytest.raises(InputError, match=r"a\.jpg is damaged"), open_text(tmp_path / "a.zip", "a.jpg") as text:
        text.read(1 << 16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000, "kilobytes"


def test_a_missing_a_damaged_and_an_enormous_text_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", {"list.txt": b"content"})
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent"))
    with pytest.raises(InputError, match=r"a\.zip: holds no other\.txt"), open_text(path, "other.txt"):
        pass
    with pytest.raises(InputError, match=r"a\.zip: list\.txt is damaged"), open_text(path, "list.txt") as text:
        text.read(100)
    monkeypatch.setattr("finetune.datasets.zip_reader.LARGEST_TEXT", 6)
    with pytest.raises(InputError, match=r"a\.zip: list\.txt has 7 bytes, more than 6"), open_text(path, "list.txt"):
        pass


def test_lines_come_with_their_numbers_and_without_blank_ones(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"list.txt": "one\r\n\n three\N{LINE SEPARATOR}\nfour".encode()})
    assert list(read_lines(path, "list.txt")) == [(1, "one"), (3, " three\N{LINE SEPARATOR}"), (4, "four")]


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"a\nna\xefve\n", "line 2 is not UTF-8 at byte 2"), (b"a\n" + b"x" * 20, "line 2 has 16 bytes or more")],
)
def test_a_line_that_cannot_be_one_is_named(
    content: bytes, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.datasets.zip_reader.LONGEST_LINE", 16)
    path = write_zip(tmp_path / "a.zip", {"list.txt": content})
    with pytest.raises(InputError, match=rf"a\.zip: list\.txt, {fault}"):
        list(read_lines(path, "list.txt"))
