import os
import zipfile
from pathlib import Path

import pytest

from finetune.datasets.folder_zip import archive_folder
from finetune.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("b.jpg", b"2"), ("a/ü.jpg", b"1"), (".DS_Store", b""), ("a/.hidden/c.jpg", b"")):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "own"


def test_it_contains_all_files_except_hidden_ones_sorted_by_name(folder: Path, tmp_path: Path) -> None:
    archive_folder(folder, tmp_path / "own.zip")
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == {"a/ü.jpg": b"1", "b.jpg": b"2"}
        assert archive.namelist() == ["a/ü.jpg", "b.jpg"]


def test_texts_only_leaves_images_empty(folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "metadata.jsonl").write_bytes(b"{}")
    archive_folder(folder, tmp_path / "own.zip", texts_only=True)
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    assert contents == {"a/metadata.jsonl": b"{}", "a/ü.jpg": b"", "b.jpg": b""}


def test_its_bytes_depend_only_on_names_and_contents(folder: Path, tmp_path: Path) -> None:
    archive_folder(folder, tmp_path / "one.zip")
    os.utime(folder / "b.jpg", (0, 0))
    (folder / "b.jpg").chmod(0o600)
    archive_folder(folder.rename(tmp_path / "moved"), tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_symbolic_link_is_an_input_error(folder: Path, tmp_path: Path) -> None:
    (folder / "link.jpg").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"own/link\.jpg: a symbolic link; replace it"):
        archive_folder(folder, tmp_path / "own.zip")
