"""A failed stage prints a one-line error and leaves no partial files, and the next `dvc repro` continues."""

import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Copy

STAGE_SECONDS = 120


def error_lines(output: str) -> list[str]:
    """Return the stage's own error messages; DVC adds lines with `ERROR:`."""
    return [line for line in output.splitlines() if line.startswith("error: ")]


def partial_files(copy: Copy) -> list[Path]:
    return [path for folder in ("data", "models", "metrics") for path in (copy.root / folder).rglob("*.partial")]


def fetch_real_archives(copy: Copy, damage: Callable[[Path], None]) -> str:
    """Run `dvc repro fetch@flickr8k` after damaging the image archive and return the error message."""
    archives = copy.root / "archives"
    archives.mkdir()
    for name in copy.params()["fetch"]["flickr8k"]:
        with zipfile.ZipFile(archives / name, "w") as archive:
            archive.writestr("a", name * 1000)
        sha256 = copy.run("sha256sum", str(archives / name)).stdout.split()[0]
        keys = ("fetch", "flickr8k", name)
        value = {
            "location": f"archives/{name}",
            "checksum": f"sha256:{sha256}",
            "bytes": (archives / name).stat().st_size,
        }
        copy.set_param(*keys, value=copy.params()["fetch"]["flickr8k"][name] | value)
    damage(archives / "Flickr8k_Dataset.zip")
    failed = copy.dvc("repro", "fetch@flickr8k", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout
    (line,) = error_lines(failed.stdout)
    assert partial_files(copy) == []
    assert not (copy.root / "data" / "raw" / "flickr8k").exists()
    return line


def test_error_names_a_missing_archive(copy: Copy) -> None:
    assert "archives/Flickr8k_Dataset.zip" in fetch_real_archives(copy, Path.unlink)


def test_error_names_a_truncated_archive_and_its_size(copy: Copy) -> None:
    line = fetch_real_archives(copy, lambda path: os.truncate(path, 500))
    assert "archives/Flickr8k_Dataset.zip" in line
    assert "500" in line


def test_error_names_an_archive_with_a_wrong_checksum(copy: Copy) -> None:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)

    line = fetch_real_archives(copy, damage)
    assert "archives/Flickr8k_Dataset.zip" in line
    assert "sha256" in line


def test_invalid_params_are_reported_before_any_work(copy: Copy) -> None:
    copy.set_param("train", "epochs", value=0)
    copy.set_param("generate", "guidance_scale", value="high")
    failed = copy.dvc("repro", "fetch@coco", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout
    assert "train.epochs" in failed.stdout
    assert "generate.guidance_scale" in failed.stdout
    assert not (copy.root / "data" / "raw" / "coco").exists()


def test_stage_runs_without_dvc(copy: Copy) -> None:
    copy.run("python", "-m", "stages.fetch", "flickr8k")
    assert zipfile.is_zipfile(copy.root / "data" / "raw" / "flickr8k" / "Flickr8k_Dataset.zip")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_repro_resumes(copy: Copy, signum: signal.Signals) -> None:
    for archive in copy.params()["fetch"]["coco"]:
        copy.set_param("fetch", "coco", archive, "location", value="scenes:coco?train=150&validation=50")
    copy.dvc("repro", "fetch@flickr8k")
    lock = (copy.root / "dvc.lock").read_text()

    process = subprocess.Popen(
        ["dvc", "repro", "fetch@coco"], cwd=copy.root, env=copy.environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + STAGE_SECONDS
    while not partial_files(copy):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signum)  # like Ctrl-C in a terminal, which reaches DVC and the stage
    output, _ = process.communicate(timeout=STAGE_SECONDS)

    assert process.returncode != 0
    assert not (copy.root / "data" / "raw" / "coco").exists()
    if signum != signal.SIGKILL:
        assert partial_files(copy) == []
        assert "Traceback" not in output
    assert (copy.root / "dvc.lock").read_text() == lock

    rerun = copy.dvc("repro", "fetch@coco", "fetch@flickr8k").stdout
    assert "Running stage 'fetch@coco'" in rerun
    assert "Running stage 'fetch@flickr8k'" not in rerun
    assert partial_files(copy) == []
    assert "up to date" in copy.dvc("status", "fetch@coco", "fetch@flickr8k").stdout
