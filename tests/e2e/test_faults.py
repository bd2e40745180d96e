"""What goes wrong says so in one line, leaves nothing half-done, and the next `dvc repro` goes on."""

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
    """What the stage itself says went wrong; DVC adds its own `ERROR:` lines."""
    return [line for line in output.splitlines() if line.startswith("error: ")]


def half_done(copy: Copy) -> list[Path]:
    return [path for folder in ("data", "models", "metrics") for path in (copy.root / folder).rglob("*.partial")]


def fetch_real_archives(copy: Copy, spoil: Callable[[Path], None]) -> str:
    """`dvc repro fetch@flickr8k` on two small archives of which the image archive is spoilt after it was hashed."""
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
    spoil(archives / "Flickr8k_Dataset.zip")
    failed = copy.dvc("repro", "fetch@flickr8k", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout
    (line,) = error_lines(failed.stdout)
    assert half_done(copy) == []
    assert not (copy.root / "data" / "raw" / "flickr8k").exists()
    return line


def test_a_missing_archive_is_named(copy: Copy) -> None:
    assert "archives/Flickr8k_Dataset.zip" in fetch_real_archives(copy, Path.unlink)


def test_a_truncated_archive_is_named(copy: Copy) -> None:
    line = fetch_real_archives(copy, lambda path: os.truncate(path, 500))
    assert "archives/Flickr8k_Dataset.zip" in line
    assert "500" in line


def test_an_archive_with_other_content_is_named(copy: Copy) -> None:
    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)

    line = fetch_real_archives(copy, spoil)
    assert "archives/Flickr8k_Dataset.zip" in line
    assert "sha256" in line


def test_a_wrong_parameter_is_named_before_any_time_is_spent(copy: Copy) -> None:
    copy.set_param("train", "epochs", value=0)
    copy.set_param("generate", "guidance_scale", value="high")
    failed = copy.dvc("repro", "fetch@coco", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout
    assert "train.epochs" in failed.stdout
    assert "generate.guidance_scale" in failed.stdout
    assert not (copy.root / "data" / "raw" / "coco").exists()


def test_a_stage_runs_without_dvc(copy: Copy) -> None:
    copy.run("python", "-m", "stages.fetch", "flickr8k")
    assert zipfile.is_zipfile(copy.root / "data" / "raw" / "flickr8k" / "Flickr8k_Dataset.zip")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_repro_goes_on_where_it_stopped(copy: Copy, signum: signal.Signals) -> None:
    for archive in copy.params()["fetch"]["coco"]:
        copy.set_param("fetch", "coco", archive, "location", value="scenes:coco?train=150&validation=50")
    copy.dvc("repro", "fetch@flickr8k")
    cache = (copy.root / "dvc.lock").read_text()

    process = subprocess.Popen(
        ["dvc", "repro", "fetch@coco"], cwd=copy.root, env=copy.environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + STAGE_SECONDS
    while not half_done(copy):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signum)  # the terminal's Ctrl-C reaches DVC and the stage alike
    output, _ = process.communicate(timeout=STAGE_SECONDS)

    assert process.returncode != 0
    assert not (copy.root / "data" / "raw" / "coco").exists()
    if signum != signal.SIGKILL:
        assert half_done(copy) == []
        assert "Traceback" not in output
    assert (copy.root / "dvc.lock").read_text() == cache

    rerun = copy.dvc("repro", "fetch@coco", "fetch@flickr8k").stdout
    assert "Running stage 'fetch@coco'" in rerun
    assert "Running stage 'fetch@flickr8k'" not in rerun
    assert half_done(copy) == []
    assert "up to date" in copy.dvc("status", "fetch@coco", "fetch@flickr8k").stdout
