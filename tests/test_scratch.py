"""Scratch state survives a killed run, belongs to one key, and is pruned after it has become an output."""

from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.scratch import Scratch, prune


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def folder(key: str, complete: bool = False) -> Path:
    scratch = Scratch("kind", key)
    with scratch.lock("busy"):
        (scratch.folder / "content").write_text(key)
        if complete:
            scratch.mark_complete()
    return scratch.folder


def test_it_is_in_the_main_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # `dvc exp run --temp` runs in a copy
    assert folder("a") == root / ".dvc/tmp/kind/a"


def test_one_process_at_a_time_holds_it() -> None:
    with Scratch("kind", "a").lock("busy"), pytest.raises(InputError, match=r"^busy; wait for it or stop it"):
        Scratch("kind", "a").lock("busy").__enter__()
    with Scratch("kind", "a").lock("busy"):
        pass


def test_prune_deletes_complete_folders_that_are_not_kept() -> None:
    killed, kept, old = folder("killed"), folder("kept", complete=True), folder("old", complete=True)
    prune("kind", {"kept"})
    assert [path.exists() for path in (killed, kept, old)] == [True, True, False]
    prune("kind", {"kept"}, unfinished=True)
    assert [path.exists() for path in (killed, kept)] == [False, True]


def test_a_folder_that_is_in_use_again_is_not_pruned() -> None:
    reopened = folder("a", complete=True)
    Scratch("kind", "a").mark_in_use()
    prune("kind", set())
    assert reopened.exists()
