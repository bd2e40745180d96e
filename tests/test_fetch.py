import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.params import Archive, Base
from stages.fetch import fetch_base, fetch_files
from tests.archives import ROOT

SCENES = "scenes:coco?train=2&validation=1"


def archive(location: str, checksum: str | None = None) -> Archive:
    return Archive(location=location, checksum=checksum, bytes=None)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_drawn_and_copied_archives_land_side_by_side(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(b"content")
    fetch_files(
        {"val2017.zip": archive(SCENES), "train2017.zip": archive(str(source), f"sha256:{sha256_of(source)}")},
        tmp_path / "coco",
    )
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["train2017.zip", "val2017.zip"]
    assert (tmp_path / "coco" / "train2017.zip").read_bytes() == b"content"


def test_a_drawn_archive_is_verified_when_its_sha256_is_given(tmp_path: Path) -> None:
    fetch_files({"val2017.zip": archive(SCENES)}, tmp_path / "first")
    sha256 = sha256_of(tmp_path / "first" / "val2017.zip")
    fetch_files({"val2017.zip": archive(SCENES, f"sha256:{sha256}")}, tmp_path / "second")
    with pytest.raises(InputError, match=f"its sha256 is {sha256}, not the {'0' * 64}"):
        fetch_files({"val2017.zip": archive(SCENES, f"sha256:{'0' * 64}")}, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_folder_becomes_an_archive_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="its sha256 is") as raised:
        fetch_files({"own.zip": archive(f"{tmp_path}/photos", f"sha256:{'0' * 64}")}, tmp_path / "own")
    (digest,) = re.findall(r"sha256 is (\w{64})", str(raised.value))
    fetch_files({"own.zip": archive(f"{tmp_path}/photos", f"sha256:{digest}")}, tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "own" / "own.zip") as fetched:
        assert fetched.read("metadata.jsonl") == b"{}\n"


def test_one_fault_keeps_what_was_there_before_and_nothing_new(tmp_path: Path) -> None:
    fetch_files({"val2017.zip": archive(SCENES)}, tmp_path / "coco")
    with pytest.raises(InputError, match="no such file"):
        fetch_files(
            {"train2017.zip": archive(SCENES), "val2017.zip": archive("nowhere", f"sha256:{'0' * 64}")},
            tmp_path / "coco",
        )
    assert [path.name for path in tmp_path.rglob("*.zip")] == ["val2017.zip"]


def test_the_base_model_is_brought_with_its_weights_verified(tmp_path: Path, tiny_base: Path) -> None:
    (tiny_base / "model_index.json").write_text("{}")
    weights = {path.relative_to(tiny_base).as_posix(): sha256_of(path) for path in tiny_base.rglob("*.safetensors")}
    fetch_base(Base(location=str(tiny_base), revision=None, sha256=weights), tmp_path / "base")
    assert {path.parent.name for path in (tmp_path / "base").rglob("*.safetensors")} == {"unet", "vae", "text_encoder"}
    assert (tmp_path / "base" / "tokenizer" / "tokenizer_config.json").exists()


def test_the_command_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    committed = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(committed.replace("scenes:flickr8k?train=", "scenes:flickr8k?trains="))
    process = subprocess.run(
        [sys.executable, "-m", "stages.fetch", "flickr8k"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: scenes:flickr8k?trains=")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "data" / "raw" / "flickr8k").exists()
