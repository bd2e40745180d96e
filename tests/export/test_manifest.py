"""A folder must contain exactly what its manifest lists."""

import json
from pathlib import Path

import pytest
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem

from finetune.errors import InputError
from finetune.export.manifest import MANIFEST, check_manifest, dvc_md5, write_manifest

HINT = "fetch it again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/weights.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("card")
    write_manifest(folder)
    return folder


def is_accepted(folder: Path) -> bool:
    check_manifest(folder, HINT)
    return True


def error_of(folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        check_manifest(folder, HINT)
    message = str(raised.value)
    assert message.endswith((f"; {HINT}", f", or {HINT}"))
    assert "\n" not in message
    return message


def test_unchanged_folder_passes(folder: Path) -> None:
    assert is_accepted(folder)


def test_changed_or_missing_file_is_named(folder: Path) -> None:
    (folder / "unet/weights.safetensors").write_bytes(b"Weights")
    assert error_of(folder).startswith(f"{folder}/unet/weights.safetensors: does not match {MANIFEST}")
    (folder / "unet/weights.safetensors").unlink()
    assert error_of(folder).startswith(f"{folder}/unet/weights.safetensors: no such file")


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
def test_damaged_manifest_is_named(folder: Path, content: bytes, named: str) -> None:
    (folder / MANIFEST).write_bytes(content)
    message = error_of(folder)
    assert message.startswith(f"{folder / MANIFEST}: ")
    assert named in message


def test_missing_manifest_is_named(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert error_of(folder).startswith(f"{folder / MANIFEST}: No such file or directory")


@pytest.mark.parametrize("name", ["unet/model.safetensors.index.json", "tokenizer.json", "new/manifest.json"])
def test_unlisted_file_is_refused(folder: Path, name: str) -> None:
    """diffusers would load the shards of an index instead of the verified weights."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({}))
    assert error_of(folder).startswith(f"{folder / name}: not listed in {MANIFEST}; delete it")


def test_linked_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    assert error_of(folder).startswith(f"{folder}/unet: not listed in")


def test_files_may_be_links_to_dvc_s_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").rename(tmp_path / "cached")
    (folder / "README.md").symlink_to(tmp_path / "cached")
    assert is_accepted(folder)


def test_hidden_files_are_ignored(folder: Path) -> None:
    (folder / ".cache/huggingface").mkdir(parents=True)
    for name in (".gitattributes", ".gitignore", ".DS_Store", "unet/.DS_Store", ".cache/huggingface/x.metadata"):
        (folder / name).touch()
    assert is_accepted(folder)


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    # their order depends on whether paths, parts or code points are compared
    for name in ("b", "a/z", "a-b", "a/B/c", "ä", "a b", ".hidden"):
        file = tmp_path / "odd_names" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}\r\n")
    return tmp_path / "odd_names"


@pytest.mark.parametrize("name", [".", "a/z"])
def test_dvc_md5_equals_dvc_s_hash(odd_names: Path, tmp_path: Path, name: str) -> None:
    system = LocalFileSystem()
    _, _, tree = build(HashFileDB(system, str(tmp_path / "store")), str(odd_names / name), system, "md5")
    assert dvc_md5(odd_names / name) == tree.hash_info.value


def test_dvc_md5_of_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dvc_md5(tmp_path / "missing")


@pytest.mark.parametrize("path", ["metrics/samples", "metrics/train.json", "metrics/fid.json"])
def test_dvc_md5_equals_the_hashes_in_dvc_lock(path: str) -> None:
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    listed = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    assert dvc_md5(Path(path)) == listed[path]
