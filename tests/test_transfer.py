import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.transfer import fetch_file, fetch_model
from tests.archives import ROOT

CONTENT = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHECKSUM = f"sha256:{SHA256}"
REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHT = "unet/diffusion_pytorch_model.safetensors"
MODEL = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"a card",
    "v1-5-pruned.ckpt": b"pickled",
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/merges.txt": b"#version: 0.2",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"pickled",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    WEIGHT: b"whole",
    "safety_checker/config.json": b"{}",
}
NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    WEIGHT,
}
HASHES = {WEIGHT: hashlib.sha256(MODEL[WEIGHT]).hexdigest()}


class Files(http.server.SimpleHTTPRequestHandler):
    """A folder on loopback, whose `cut.bin` ends early."""

    def do_GET(self) -> None:
        if self.path != "/cut.bin":
            super().do_GET()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_: object) -> None:
        pass


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download of MODEL at REVISION as `some/model` asks for."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        prefix = f"/some/model/resolve/{REVISION}/"
        if self.path.startswith("/api/models/some/model/revision/" + REVISION):
            listed = ", ".join(f'{{"rfilename": "{name}"}}' for name in MODEL)
            content = f'{{"id": "some/model", "sha": "{REVISION}", "siblings": [{listed}]}}'.encode()
        elif self.path.startswith(f"/api/models/some/model/tree/{REVISION}"):
            listed = ", ".join(
                f'{{"type": "file", "path": "{name}", "size": {len(content)}, "oid": "{REVISION}"}}'
                for name, content in MODEL.items()
            )
            content = f"[{listed}]".encode()
        elif self.path.startswith(prefix) and self.path.removeprefix(prefix) in MODEL:
            content = MODEL[self.path.removeprefix(prefix)]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if "some/model" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is part of these tests."""


def serve(handler: type[http.server.BaseHTTPRequestHandler] | partial[Files]) -> Iterator[str]:
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "a.zip").write_bytes(CONTENT)
    yield from serve(partial(Files, directory=str(folder)))


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    yield from serve(Hub)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in MODEL.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_file_arrives_from_a_path_and_from_a_server(tmp_path: Path, site: str) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    for location in (str(tmp_path / "source"), f"{site}/a.zip"):
        fetch_file(location, tmp_path / "out" / "a.zip", CHECKSUM, len(CONTENT))
        assert (tmp_path / "out" / "a.zip").read_bytes() == CONTENT


def test_a_file_arrives_from_inside_an_installed_package(tmp_path: Path) -> None:
    fetch_file("package:finetune/errors.py", tmp_path / "errors.py", None, None)
    assert (tmp_path / "errors.py").read_bytes() == (ROOT / "finetune" / "errors.py").read_bytes()


def test_an_md5_is_verified_where_the_publisher_gives_nothing_better(tmp_path: Path, site: str) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    fetch_file(f"{site}/a.zip", tmp_path / "a.zip", f"md5:{md5}", None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    with pytest.raises(InputError, match=f"its md5 is {md5}, not the {'0' * 32} of params.yaml"):
        fetch_file(f"{site}/a.zip", tmp_path / "b.zip", f"md5:{'0' * 32}", None)
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize("source", ["path", "server"])
def test_a_wrong_sha256_names_file_and_both_and_keeps_nothing(tmp_path: Path, site: str, source: str) -> None:
    location = f"{site}/a.zip" if source == "server" else str(tmp_path / "site" / "a.zip")
    wrong = "0" * 64
    with pytest.raises(InputError, match=f"{location}: its sha256 is {SHA256}, not the {wrong} of params.yaml"):
        fetch_file(location, tmp_path / "out" / "a.zip", f"sha256:{wrong}", None)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_size_is_refused_before_the_download(tmp_path: Path, site: str) -> None:
    with pytest.raises(InputError, match=f"a.zip: it has {len(CONTENT)} bytes, not the 5 of params.yaml"):
        fetch_file(f"{site}/a.zip", tmp_path / "a.zip", CHECKSUM, 5)


def test_a_download_that_ends_early_keeps_nothing(tmp_path: Path, site: str) -> None:
    with pytest.raises(InputError, match=r"cut\.bin: .*check the address and the network"):
        fetch_file(f"{site}/cut.bin", tmp_path / "out" / "cut.bin", CHECKSUM, None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("nowhere/a.zip", r"nowhere/a\.zip: no such file; correct its location"),
        ("package:no_such_package/a.pth", "the package no_such_package is not installed"),
        ("package:finetune/no_such_file", "the package finetune holds no file 'no_such_file'"),
        ("ftp://host/a.zip", "not a location that can be fetched"),
        ("http://127.0.0.1:9/a.zip", "check the address and the network"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, location: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        fetch_file(location, tmp_path / "a.zip", CHECKSUM, None)


def test_a_file_that_the_server_lacks_is_named(tmp_path: Path, site: str) -> None:
    with pytest.raises(InputError, match=r"b\.zip: 404 Client Error"):
        fetch_file(f"{site}/b.zip", tmp_path / "b.zip", CHECKSUM, None)


def test_a_model_is_its_configuration_and_the_weights_with_a_sha256(tmp_path: Path, model: Path) -> None:
    fetch_model(str(model), None, HASHES, tmp_path / "base")
    assert names(tmp_path / "base") == NEEDED
    assert (tmp_path / "base" / WEIGHT).read_bytes() == MODEL[WEIGHT]


def test_a_wrong_weight_keeps_nothing_of_the_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match=f"{WEIGHT}: its sha256 is {HASHES[WEIGHT]}, not the {'0' * 64}"):
        fetch_model(str(model), None, {WEIGHT: "0" * 64}, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_missing_weights_and_a_missing_folder_are_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match=r"holds no vae/model\.safetensors; see fetch\.base"):
        fetch_model(str(model), None, {"vae/model.safetensors": "0" * 64}, tmp_path / "base")
    with pytest.raises(InputError, match=r"nowhere: holds no model_index\.json"):
        fetch_model("nowhere", None, {}, tmp_path / "base")


HUB_CALL = "import sys; from finetune.transfer import fetch_model; from pathlib import Path; fetch_model"


def fetch_from_hub(
    hub: str, folder: Path, location: str, revision: str, hashes: dict[str, str], offline: bool = False
) -> str:
    """The last line of what a process says that fetches a model with this hub: its address is read at import."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": hub, "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    call = f"{HUB_CALL}({location!r}, {revision!r}, {hashes!r}, Path('base'))"
    process = subprocess.run(
        [sys.executable, "-c", call], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return process.stderr.strip().rpartition("\n")[2] if process.returncode else "fetched"


def test_a_model_arrives_from_a_hub_without_what_it_does_not_need(tmp_path: Path, hub: str) -> None:
    assert fetch_from_hub(hub, tmp_path, "hf://some/model", REVISION, HASHES) == "fetched"
    assert names(tmp_path / "base") == NEEDED
    assert (tmp_path / "base" / WEIGHT).read_bytes() == MODEL[WEIGHT]


def test_a_wrong_weight_of_a_hub_keeps_nothing(tmp_path: Path, hub: str) -> None:
    said = fetch_from_hub(hub, tmp_path, "hf://some/model", REVISION, {WEIGHT: "0" * 64})
    assert f"InputError: hf://some/model/{WEIGHT}: its sha256 is {HASHES[WEIGHT]}, not the {'0' * 64}" in said
    assert not (tmp_path / "base").exists()


def test_a_model_or_a_revision_that_the_hub_lacks_is_named_in_one_line(tmp_path: Path, hub: str) -> None:
    for location, revision in (("hf://some/other", REVISION), ("hf://some/model", "f" * 40), ("hf://a/b/c", REVISION)):
        said = fetch_from_hub(hub, tmp_path, location, revision, HASHES)
        assert said.startswith(f"finetune.errors.InputError: {location} at revision {revision}: "), said


def test_a_machine_set_to_be_offline_is_named(tmp_path: Path, hub: str) -> None:
    said = fetch_from_hub(hub, tmp_path, "hf://some/model", REVISION, HASHES, offline=True)
    assert said.startswith("finetune.errors.InputError: hf://some/model at revision"), said
    assert "offline" in said
