"""The files of a model in a folder or on the hub: complete, minimal and verified."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune.errors import InputError
from finetune.fetch.download import CHUNK
from finetune.fetch.transfer import fetch_all
from finetune.model.hub_files import model_files
from tests.builders.http_server import Fault, Site

REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHT = "unet/diffusion_pytorch_model.safetensors"
CHECKER = "safety_checker/model.safetensors"
MODEL = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"a card",
    "v1-5-pruned.ckpt": b"pickled",
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/merges.txt": b"#version: 0.2",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"pickled",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    WEIGHT: b"whole" * 40_000,
    "feature_extractor/preprocessor_config.json": b"{}",
    "safety_checker/config.json": b"{}",
    CHECKER: b"safe",
}
NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    WEIGHT,
}
HASHES = {WEIGHT: hashlib.sha256(MODEL[WEIGHT]).hexdigest()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in MODEL.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The part of a hub that a download of MODEL as `some/model` at REVISION uses."""
    monkeypatch.setattr(constants, "ENDPOINT", site.url)  # like HF_ENDPOINT in a new process
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    site.files = {f"/some/model/resolve/{REVISION}/{name}": content for name, content in MODEL.items()}
    site.files[f"/api/models/some/model/tree/{REVISION}?recursive=true&expand=false"] = json.dumps(
        [{"type": "directory", "path": "unet", "oid": "0" * 40}, *map(hub_entry, MODEL)]
    ).encode()
    return site


def hub_entry(name: str) -> dict[str, object]:
    """A file as the hub lists it: large files are stored by their sha256."""
    content = MODEL[name]
    oid = subprocess.run(["git", "hash-object", "--stdin"], input=content, check=True, capture_output=True).stdout
    listed = {"type": "file", "path": name, "size": len(content), "oid": oid.decode().strip()}
    if name.endswith(".safetensors"):
        listed["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return listed


def url_path(name: str) -> str:
    return f"/some/model/resolve/{REVISION}/{name}"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fetch(location: str, destination: Path, hashes: dict[str, str] = HASHES) -> set[str]:
    fetch_all(model_files(location, REVISION, hashes), destination)
    return names(destination)


def test_configuration_and_pinned_weights_are_fetched(tmp_path: Path, folder: Path) -> None:
    assert fetch(str(folder), tmp_path / "base") == NEEDED
    assert (tmp_path / "base" / WEIGHT).read_bytes() == MODEL[WEIGHT]


def test_pinned_safety_checker_is_fetched_with_its_configuration(tmp_path: Path, folder: Path) -> None:
    hashes = HASHES | {CHECKER: hashlib.sha256(MODEL[CHECKER]).hexdigest()}
    checker = {CHECKER, "safety_checker/config.json", "feature_extractor/preprocessor_config.json"}
    assert fetch(str(folder), tmp_path / "base", hashes) == NEEDED | checker


def test_only_needed_files_are_downloaded_from_the_hub(tmp_path: Path, hub: Site) -> None:
    assert fetch("hf://some/model", tmp_path / "base") == NEEDED
    assert (tmp_path / "base" / WEIGHT).read_bytes() == MODEL[WEIGHT]
    assert {path for path, _ in hub.requests if "/resolve/" in path} == {url_path(name) for name in NEEDED}


def test_hub_token_is_used(tmp_path: Path, hub: Site) -> None:
    fetch("hf://some/model", tmp_path / "base")
    assert {headers.get("authorization") for headers in hub.headers} <= {"Bearer hf_secret", None}
    assert hub.headers[-1]["authorization"] == "Bearer hf_secret"


def test_interrupted_download_resumes(tmp_path: Path, hub: Site) -> None:
    hub.faults[url_path(WEIGHT)] = [Fault(cut=CHUNK)]
    assert fetch("hf://some/model", tmp_path / "base") == NEEDED
    assert [byte_range for path, byte_range in hub.requests if path == url_path(WEIGHT)] == [None, f"bytes={CHUNK}-"]


def test_wrong_weight_is_named_with_both_hashes(tmp_path: Path, folder: Path, hub: Site) -> None:
    for location, source in ((str(folder), str(folder)), ("hf://some/model", hub.url)):
        with pytest.raises(InputError, match=f"{source}.*{WEIGHT}: its sha256 is {HASHES[WEIGHT]}, not .* {'0' * 64}"):
            fetch(location, tmp_path / "base", {WEIGHT: "0" * 64})


def test_configuration_is_verified_by_its_git_hash(tmp_path: Path, hub: Site) -> None:
    hub.files[url_path("unet/config.json")] = b"[]"
    with pytest.raises(InputError, match=r"unet/config\.json: its git-sha1 is \w{40}, not the expected \w{40}"):
        fetch("hf://some/model", tmp_path / "base")


@pytest.mark.usefixtures("hub")
def test_missing_weights_or_folder_are_named(folder: Path) -> None:
    for location in (str(folder), "hf://some/model"):
        with pytest.raises(InputError, match=r"vae/model\.safetensors is missing; see fetch\.base"):
            model_files(location, REVISION, {"vae/model.safetensors": "0" * 64})
    with pytest.raises(InputError, match=r"nowhere: model_index\.json is missing"):
        model_files("nowhere", None, {})


@pytest.mark.parametrize(
    ("location", "revision"), [("hf://some/other", REVISION), ("hf://some/model", "f" * 40), ("hf://a/b/c", REVISION)]
)
@pytest.mark.usefixtures("hub")
def test_unknown_model_or_revision_is_a_one_line_error(location: str, revision: str) -> None:
    with pytest.raises(InputError) as caught:
        model_files(location, revision, HASHES)
    assert str(caught.value).startswith(f"{location} at revision {revision}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_offline_mode_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"hf://some/model at revision .*offline"):
        model_files("hf://some/model", REVISION, HASHES)
