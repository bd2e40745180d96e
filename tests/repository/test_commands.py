"""Commands of the pages whose work other tests look into: here the command itself runs to its end."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from report.licenses import LOCK, NOTICE
from tests.sample.test_measurements import write_images

ROOT = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, *arguments: str) -> None:
    """`python -m module arguments` in `folder`, with the imports of this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.MonkeyPatch.context() as patched:
        patched.delitem(sys.modules, module, raising=False)
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    run(monkeypatch, tmp_path, "report.__main__")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_notice_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NOTICE, LOCK):
        shutil.copy(ROOT / name, tmp_path)
    run(monkeypatch, tmp_path, "report.licenses")
    assert (tmp_path / NOTICE).read_text() == (ROOT / NOTICE).read_text()


def test_few_features_are_laid_beside_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, ROOT, "sample.early_features", str(write_images(tmp_path / "images", 16)))
    assert capsys.readouterr().out.startswith("8 images against 8 others\n")


def test_a_seed_is_fuzzed_again() -> None:
    """In a process of its own, whose memory it limits."""
    command = [sys.executable, "-m", "tests.tools.fuzz", "--seed", "test: 1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.endswith("; 0 failures\n")) == (0, True), done.stdout + done.stderr
