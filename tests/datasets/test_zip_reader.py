"""zip_reader agrees with the standard library on valid archives and survives damaged ones."""

import random
import resource
import struct
import zipfile
from pathlib import Path

import pytest

from finetune.datasets.zip_reader import (
    Member,
    members,
    open_text,
    read_lines,
    read_member,
)
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, needs_photos, write_zip

END = b"PK\x05\x06"


def library_contents(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def our_contents(path: Path) -> list[tuple[str, bytes]]:
    return [(member.name, read_member(path, member)) for member in members(path)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_in_archive_order(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.comment = b"with a comment PK\x05\x06"[:15]
        for name, content in (("b/", b""), ("b/ü.jpg", b"1" * 100_000), ("a.txt", b""), ("\N{SNOWMAN}", b"2")):
            archive.writestr(name, content)
    assert our_contents(tmp_path / "a.zip") == library_contents(tmp_path / "a.zip")


def test_cp437_names_are_decoded_like_the_library_does(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"nave.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"nave", b"n\x8bve"))
    assert [member.name for member in members(path)] == ["nïve.jpg"]
    assert [name for name, _ in library_contents(path)] == ["nïve.jpg"]


def test_zip64_archives_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    contents = {f"{i}.jpg": random.Random(i).randbytes(200) for i in range(5)}
    path = write_zip(tmp_path / "a.zip", contents)
    assert path.read_bytes().count(b"PK\x06\x06") == 1
    assert our_contents(path) == list(contents.items())


@needs_photos
@pytest.mark.parametrize("name", ["coco/val2017.zip", "flickr8k/Flickr8k_Dataset.zip", "flickr8k/Flickr8k_text.zip"])
def test_real_archives_are_read_like_the_library_does(name: str) -> None:
    assert our_contents(PHOTOS / name) == library_contents(PHOTOS / name)


def test_a_missing_archive_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"nowhere/a\.zip: no such archive; run `dvc repro`"):
        list(members(Path("nowhere/a.zip")))


@pytest.mark.parametrize(
    ("keep", "problem"), [(0.9, "the zip file is cut short"), (0.5, "the zip file is cut short"), (0, "not a zip file")]
)
def test_a_truncated_archive_is_an_input_error(tmp_path: Path, keep: float, problem: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 1000})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=rf"a\.zip: {problem}; correct its location or checksum"):
        list(members(archive))


@pytest.mark.parametrize("shift", [-10, 3, 1 << 31])
def test_a_wrong_offset_of_the_central_directory_is_an_input_error(shift: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 1000, "b.jpg": b"x"})
    content = bytearray(path.read_bytes())
    at = content.rfind(END) + 16
    content[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", content, at)[0] + shift)
    path.write_bytes(content)
    with pytest.raises(InputError, match="its central directory is damaged"):
        list(members(path))


def test_a_member_beyond_the_end_is_an_input_error(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"content"})
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02") + 42
    content[at : at + 4] = struct.pack("<I", len(content))
    path.write_bytes(content)
    with pytest.raises(InputError, match="its central directory is damaged"):
        list(members(path))


def bomb(path: Path, size: int) -> Member:
    """Write a member of `size` zeros whose header says 1000."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(size))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    (member,) = members(path)
    return member


def test_a_decompression_bomb_is_damaged_and_uses_little_memory(tmp_path: Path) -> None:
    member = bomb(tmp_path / "a.zip", 100 << 20)
    assert (member.size, member.compressed_size < 1 << 18) == (1000, True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(zipfile.BadZipFile):
        read_member(tmp_path / "a.zip", member)
    with pytest.raises(InputError, match=r"a\.jpg is damaged"), open_text(tmp_path / "a.zip", "a.jpg") as text:
        text.read(1 << 16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000, "kilobytes"


def test_a_missing_damaged_or_enormous_text_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", {"list.txt": b"content"})
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent"))
    with pytest.raises(InputError, match=r"a\.zip: contains no other\.txt"), open_text(path, "other.txt"):
        pass
    with pytest.raises(InputError, match=r"a\.zip: list\.txt is damaged"), open_text(path, "list.txt") as text:
        text.read(100)
    monkeypatch.setattr("finetune.datasets.zip_reader.MAX_TEXT", 6)
    with pytest.raises(InputError, match=r"a\.zip: list\.txt has 7 bytes, more than 6"), open_text(path, "list.txt"):
        pass


def test_read_lines_numbers_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"list.txt": "one\r\n\n three\N{LINE SEPARATOR}\nfour".encode()})
    assert list(read_lines(path, "list.txt")) == [(1, "one"), (3, " three\N{LINE SEPARATOR}"), (4, "four")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\nna\xefve\n", "line 2 is not UTF-8 at byte 2"), (b"a\n" + b"x" * 20, "line 2 has 16 bytes or more")],
)
def test_a_too_long_or_undecodable_line_is_an_input_error(
    content: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.datasets.zip_reader.MAX_LINE", 16)
    path = write_zip(tmp_path / "a.zip", {"list.txt": content})
    with pytest.raises(InputError, match=rf"a\.zip: list\.txt, {problem}"):
        list(read_lines(path, "list.txt"))
