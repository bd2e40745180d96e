"""app.provenance: the commit in whose dvc.lock an output first stands."""

import subprocess
from pathlib import Path

import pytest

from app.provenance import commit_of


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
