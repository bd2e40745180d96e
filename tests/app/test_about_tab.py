"""app.ui.about_tab: what the page says of the model that it draws with."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.model import Model
from app.ui import about_tab
from app.ui.about_tab import commit_of, served


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("c0ffee", "evaluated in commit `c0ffee`."),
        (None, "evaluated in a commit that its card tells how to find."),
    ],
)
def test_the_commit_is_that_of_the_evaluation(monkeypatch: pytest.MonkeyPatch, commit: str | None, said: str) -> None:
    """An export of another name or license, of the same training, has the same evaluation: no commit made it alone."""
    pipeline: Any = SimpleNamespace(device=torch.device("cpu"), safety_checker=None)
    anything: Any = None
    monkeypatch.setattr(about_tab, "commit_of", lambda md5: commit if md5 == "a1" else pytest.fail(md5))
    model = Model(Path("export"), "d16e57", pipeline, anything, {"dvc_md5": "a1"}, Path("base"))
    assert f"the model whose manifest has the sha256 `d16e57`, {said}" in served(model)


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_first_commit_with_the_output_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    commits = []
    for content in ("md5: aaaa", "md5: bbbb", "md5: bbbb\nmore: 1"):
        Path("dvc.lock").write_text(f"{content}\n")
        git("add", "dvc.lock")
        git("commit", "--quiet", "--message", content)
        commits.append(git("rev-parse", "HEAD"))
    assert commit_of("bbbb") == commits[1]
    assert commit_of("cccc") is None


def test_outside_of_a_repository_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit_of("aaaa") is None
    monkeypatch.setenv("PATH", "")
    assert commit_of("aaaa") is None
