"""A fresh clone pulls its model from the folder in the repository; data travels through a real SSH server."""

import getpass
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Copy

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
OFFLINE = ("unshare", "--map-root-user", "--net")  # in a network namespace without a network


@dataclass(frozen=True)
class Server:
    url: str
    folder: Path
    key: Path


@pytest.fixture
def ssh_server(tmp_path: Path) -> Iterator[Server]:
    """An OpenSSH server on a free loopback port with keys made for this test."""
    if SSHD is None:
        pytest.skip("no OpenSSH server here: install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation needs it; a service file would create it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "PasswordAuthentication": "no",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            assert b"listening" in server.stderr.readline()
            folder = tmp_path / "server"
            yield Server(f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}", folder, tmp_path / "user")
        finally:
            server.terminate()


def wipe(copy: Copy) -> None:
    """Delete everything the pipeline wrote, as in a fresh clone."""
    shutil.rmtree(copy.root / ".dvc" / "cache")
    copy.run("git", "clean", "-fdx", "--quiet", "--exclude=/.dvc/config.local")


def point_at(copy: Copy, server: Server) -> None:
    copy.dvc("remote", "add", "--local", "--default", "--force", "sample", server.url)
    copy.dvc("remote", "modify", "--local", "sample", "keyfile", str(server.key))
    copy.dvc("remote", "modify", "--local", "sample", "allow_agent", "false")


def test_data_travels_through_an_ssh_server(quick_copy: Copy, ssh_server: Server) -> None:
    point_at(quick_copy, ssh_server)
    quick_copy.dvc("push")
    assert any(ssh_server.folder.rglob("*.dir"))
    before = {name: (quick_copy.root / name).read_bytes() for name in ("models/export/content", "data/tokens/content")}
    wipe(quick_copy)
    assert not (quick_copy.root / "models").exists()
    quick_copy.dvc("pull")
    assert {name: (quick_copy.root / name).read_bytes() for name in before} == before
    assert "up to date" in quick_copy.dvc("status").stdout


def test_an_ssh_server_that_refuses_the_key_is_an_error(quick_copy: Copy, ssh_server: Server) -> None:
    point_at(quick_copy, ssh_server)
    ssh_server.key.write_bytes((ssh_server.key.parent / "host").read_bytes())
    refused = quick_copy.dvc("push", check=False)
    assert refused.returncode != 0
    assert "ERROR" in refused.stdout
    assert not ssh_server.folder.exists()


def test_a_fresh_clone_pulls_the_exported_model_without_a_network(copy: Copy) -> None:
    offline = OFFLINE if subprocess.run([*OFFLINE, "true"], capture_output=True).returncode == 0 else ()
    copy.run(*offline, "dvc", "pull", "export")
    model = copy.root / "models" / "export"
    assert json.loads((model / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size > 1_000_000
    assert copy.run("git", "status", "--porcelain").stdout == ""


def test_a_full_size_run_needs_a_remote_of_its_own_before_its_first_download(copy: Copy) -> None:
    copy.run("make", "preset", "P=rtx3090")
    refused = copy.dvc("repro", "fetch@coco", check=False)
    assert refused.returncode != 0
    assert "dvc remote add --local --default" in refused.stdout
    assert not (copy.root / "data" / "raw" / "coco").exists()
