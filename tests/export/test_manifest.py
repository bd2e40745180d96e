"""finetune.export.manifest: a folder is what its manifest lists, all of it and nothing else."""

import json
from pathlib import Path

import pytest
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem

from finetune.errors import InputError
from finetune.export.manifest import MANIFEST, check_manifest, dvc_md5, write_manifest

REMEDY = "fetch it again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/weights.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("card")
    write_manifest(folder)
    return folder


def fault(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        check_manifest(folder, REMEDY)
    message = str(refused.value)
    assert message.endswith((f"; {REMEDY}", f", or {REMEDY}"))
    assert "\n" not in message
    return message


def test_a_folder_as_it_was_written_passes(folder: Path) -> None:
    check_manifest(folder, REMEDY)


def test_a_changed_and_a_missing_file_are_named(folder: Path) -> None:
    (folder / "unet/weights.safetensors").write_bytes(b"Weights")
    assert fault(folder).startswith(f"{folder}/unet/weights.safetensors: not the bytes that {MANIFEST} lists")
    (folder / "unet/weights.safetensors").unlink()
    assert fault(folder).startswith(f"{folder}/unet/weights.safetensors: no such file")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "Invalid JSON"),
        (b'{"README.md": {"bytes": 4, "sha2', "Invalid JSON"),
        (b"[]", "should be an object"),
        (b'{"README.md": null}', "README.md: "),
        (b'{"README.md": {"bytes": 4}}', "README.md.sha256: "),
        (b'{"README.md": {"bytes": "4", "sha256": ""}}', "README.md.bytes: "),
        (b"\xff", "Invalid JSON"),
    ],
)
def test_a_damaged_manifest_is_named(folder: Path, content: bytes, named: str) -> None:
    (folder / MANIFEST).write_bytes(content)
    message = fault(folder)
    assert message.startswith(f"{folder / MANIFEST}: ")
    assert named in message


def test_a_missing_manifest_is_named(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert fault(folder).startswith(f"{folder / MANIFEST}: No such file or directory")


@pytest.mark.parametrize("name", ["unet/model.safetensors.index.json", "tokenizer.json", "new/manifest.json"])
def test_a_file_that_is_not_listed_is_refused(folder: Path, name: str) -> None:
    """diffusers would load the shards of an index in place of the weights that were checked."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({}))
    assert fault(folder).startswith(f"{folder / name}: not among what {MANIFEST} lists; delete it")


def test_a_linked_folder_is_refused_for_what_it_may_hold(folder: Path, tmp_path: Path) -> None:
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    assert fault(folder).startswith(f"{folder}/unet: not among what")


def test_files_may_be_links_as_dvc_makes_them_of_its_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").rename(tmp_path / "cached")
    (folder / "README.md").symlink_to(tmp_path / "cached")
    check_manifest(folder, REMEDY)


def test_what_git_dvc_the_hub_and_desktops_leave_is_let_be(folder: Path) -> None:
    (folder / ".cache/huggingface").mkdir(parents=True)
    for name in (".gitattributes", ".gitignore", ".DS_Store", "unet/.DS_Store", ".cache/huggingface/x.metadata"):
        (folder / name).touch()
    check_manifest(folder, REMEDY)


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    # names that sort otherwise by their parts, or by anything but their code points
    for name in ("b", "a/z", "a-b", "a/B/c", "ä", "a b", ".hidden"):
        file = tmp_path / "odd_names" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}\r\n")
    return tmp_path / "odd_names"


@pytest.mark.parametrize("name", [".", "a/z"])
def test_files_and_folders_have_the_hash_that_dvc_gives_them(odd_names: Path, tmp_path: Path, name: str) -> None:
    system = LocalFileSystem()
    _, _, tree = build(HashFileDB(system, str(tmp_path / "store")), str(odd_names / name), system, "md5")
    assert dvc_md5(odd_names / name) == tree.hash_info.value


def test_what_is_not_there_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dvc_md5(tmp_path / "missing")


@pytest.mark.parametrize("path", ["metrics/samples", "metrics/train.json", "metrics/fid.json"])
def test_the_committed_lock_has_these_hashes_of_what_git_keeps(path: str) -> None:
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    listed = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    assert dvc_md5(Path(path)) == listed[path]
