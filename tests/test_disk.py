"""A full-size run requires a default remote other than the repository's own folder."""

from pathlib import Path

import pytest

from finetune.disk import require_own_remote
from finetune.errors import InputError

GIGABYTE = 10**9


@pytest.fixture
def dvc_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = tmp_path / ".dvc"
    folder.mkdir()
    (folder / "config").write_text("[core]\n    remote = sample\n['remote \"sample\"']\n    url = ../remote\n")
    return folder


@pytest.mark.usefixtures("dvc_folder")
def test_large_sources_are_an_input_error_with_the_command_to_run() -> None:
    with pytest.raises(InputError, match=r"20.0 GB .*dvc remote add --local --default"):
        require_own_remote(20 * GIGABYTE)


def test_the_sample_may_use_the_repository(dvc_folder: Path) -> None:
    require_own_remote(10**7)
    assert (dvc_folder / "config").exists()


def test_a_different_default_remote_allows_large_sources(dvc_folder: Path) -> None:
    local = dvc_folder / "config.local"
    local.write_text("[core]\n    remote = storage\n")
    require_own_remote(20 * GIGABYTE)
    local.unlink()
    with pytest.raises(InputError):
        require_own_remote(20 * GIGABYTE)
