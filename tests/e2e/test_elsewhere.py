"""Same commit, same params, same inputs: the same dvc.lock, whoever runs it and wherever."""

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Copy
from tests.tools.elsewhere import UMASK, clone_elsewhere, stages_that_differ


@pytest.mark.long
def test_another_place_language_and_number_of_workers_end_in_the_same_lock(small_copy: Copy, tmp_path: Path) -> None:
    """As far as the training and a set of images; `make elsewhere` goes to the end."""
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


def test_a_hash_that_differs_is_named(quick_copy: Copy, tmp_path: Path) -> None:
    lock = (quick_copy.root / "dvc.lock").read_text()
    other = tmp_path / "other.lock"
    other.write_text(
        lock.replace(
            "finetune/evaluation/mmd.py\n      hash: md5\n      md5: ",
            "finetune/evaluation/mmd.py\n      hash: md5\n      md5: 0",
        )
    )
    assert stages_that_differ(quick_copy.root / "dvc.lock", other) == ["fid", "sweep"]
