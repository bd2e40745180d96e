"""finetune.lock_md5: what DVC itself computes."""

from pathlib import Path

import pytest
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem

from finetune.lock_md5 import lock_md5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # names that sort otherwise by their parts, or by anything but their code points
    for name in ("b", "a/z", "a-b", "a/B/c", "ä", "a b", ".hidden"):
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}\r\n")
    return tmp_path / "folder"


@pytest.mark.parametrize("name", [".", "a/z"])
def test_files_and_folders_have_the_hash_that_dvc_gives_them(folder: Path, tmp_path: Path, name: str) -> None:
    system = LocalFileSystem()
    _, _, tree = build(HashFileDB(system, str(tmp_path / "store")), str(folder / name), system, "md5")
    assert lock_md5(folder / name) == tree.hash_info.value


def test_what_is_not_there_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_md5(tmp_path / "missing")


@pytest.mark.parametrize("path", ["metrics/samples", "metrics/train.json", "metrics/fid.json"])
def test_the_committed_lock_has_these_hashes_of_what_git_keeps(path: str) -> None:
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    listed = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    assert lock_md5(Path(path)) == listed[path]
