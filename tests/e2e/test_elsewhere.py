"""The same commit, params and inputs give the same dvc.lock on a different machine."""

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Copy
from tests.tools.elsewhere import UMASK, clone_elsewhere, stages_that_differ


@pytest.mark.long
def test_different_path_locale_and_worker_count_give_the_same_lock(small_copy: Copy, tmp_path: Path) -> None:
    """Up to training and one set of generated images; `make elsewhere` runs the full pipeline."""
    targets = ["train-fp16", "generate-base"]
    elsewhere = clone_elsewhere(small_copy.root, tmp_path / "folder")
    (elsewhere.root / "dvc.lock").unlink()
    before = os.umask(UMASK)
    try:
        elsewhere.dvc("repro", *targets)
    finally:
        os.umask(before)
    assert all(f"\n  {target}:\n" in (elsewhere.root / "dvc.lock").read_text() for target in targets)
    assert stages_that_differ(small_copy.root / "dvc.lock", elsewhere.root / "dvc.lock") == []


def test_stages_with_different_hashes_are_listed(quick_copy: Copy, tmp_path: Path) -> None:
    lock = (quick_copy.root / "dvc.lock").read_text()
    other = tmp_path / "other.lock"
    other.write_text(
        lock.replace(
            "finetune/evaluation/mmd.py\n      hash: md5\n      md5: ",
            "finetune/evaluation/mmd.py\n      hash: md5\n      md5: 0",
        )
    )
    assert stages_that_differ(quick_copy.root / "dvc.lock", other) == ["fid", "sweep"]
