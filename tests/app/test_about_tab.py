"""app.ui.about_tab: the description of the served model."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.model import Model
from app.ui import about_tab
from app.ui.about_tab import describe_model, find_commit


@pytest.mark.parametrize(
    ("commit", "text"),
    [("c0ffee", "commit `c0ffee`."), (None, "a commit that the model card explains how to find.")],
)
def test_the_model_is_described_by_the_commit_of_its_evaluation(
    monkeypatch: pytest.MonkeyPatch, commit: str | None, text: str
) -> None:
    """Exports that differ in name or license share one evaluation, so the commit is looked up by its MD5."""
    pipeline: Any = SimpleNamespace(device=torch.device("cpu"), safety_checker=None)
    anything: Any = None
    monkeypatch.setattr(about_tab, "find_commit", lambda md5: commit if md5 == "a1" else pytest.fail(md5))
    model = Model(Path("export"), "d16e57", pipeline, anything, {"dvc_md5": "a1"}, Path("base"))
    assert f"Its model (manifest SHA-256 `d16e57`) was evaluated in {text}" in describe_model(model)


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_first_commit_with_the_md5_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    commits = []
    for content in ("md5: aaaa", "md5: bbbb", "md5: bbbb\nmore: 1"):
        Path("dvc.lock").write_text(f"{content}\n")
        git("add", "dvc.lock")
        git("commit", "--quiet", "--message", content)
        commits.append(git("rev-parse", "HEAD"))
    assert find_commit("bbbb") == commits[1]
    assert find_commit("cccc") is None


def test_no_commit_is_found_outside_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_commit("aaaa") is None
    monkeypatch.setenv("PATH", "")
    assert find_commit("aaaa") is None
