"""Scratch state survives a killed run, belongs to one key, and goes once it has become an output."""

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


def test_it_lies_in_the_main_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # as `dvc exp run --temp` does, elsewhere
    assert folder("a") == root / ".dvc/tmp/kind/a"


def test_one_process_at_a_time_holds_it() -> None:
    with Scratch("kind", "a").lock("busy"), pytest.raises(InputError, match=r"^busy; wait for it or stop it"):
        Scratch("kind", "a").lock("busy").__enter__()
    with Scratch("kind", "a").lock("busy"):  # free again
        pass


def test_prune_deletes_what_is_complete_and_not_kept() -> None:
    killed, kept, old = folder("killed"), folder("kept", complete=True), folder("old", complete=True)
    prune("kind", {"kept"})
    assert [path.exists() for path in (killed, kept, old)] == [True, True, False]
    prune("kind", {"kept"}, unfinished=True)
    assert [path.exists() for path in (killed, kept)] == [False, True]


def test_what_is_in_use_again_is_not_pruned() -> None:
    reopened = folder("a", complete=True)
    Scratch("kind", "a").mark_in_use()
    prune("kind", set())
    assert reopened.exists()
