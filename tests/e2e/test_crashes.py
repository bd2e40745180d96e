"""The short form of `make crash-matrix`: the fastest stage, and the failures that need no mount."""

import pytest

from tests.e2e.conftest import ROOT, Copy
from tests.tools import crashes

STAGE = "preprocess-512@coco"


def test_rerun_after_a_failure_gives_the_hashes_of_an_undisturbed_run(small_copy: Copy) -> None:
    found = list(crashes.outcomes(small_copy, STAGE, None, kills=2, seed=0))
    assert [outcome for outcome in found if not outcome.identical] == []
    assert sum(outcome.hits for outcome in found) >= 1


def test_forget_makes_a_stage_run_again(small_copy: Copy) -> None:
    before = crashes.locked_stages(small_copy)[STAGE]
    crashes.forget(small_copy, STAGE)
    assert f"Running stage '{STAGE}'" in small_copy.dvc("repro", "--dry", STAGE).stdout
    assert crashes.reruns_to(small_copy, STAGE, before)


@pytest.mark.parametrize(
    ("name", "left", "message"),
    [
        ("dvc.lock", "", "validation failed"),
        (".dvc/tmp/rwlock", "", "Unable to read RWLock-file"),
        (".dvc/tmp/rwlock", '{"/a": {"write": {"pid": 1, "cmd": ', "Unable to read RWLock-file"),
    ],
)
def test_lock_file_torn_by_a_kill_is_repaired_without_a_rerun(
    small_copy: Copy, name: str, left: str, message: str
) -> None:
    """DVC truncates these files before writing them. Nothing else is lost."""
    valid_lock = (small_copy.root / "dvc.lock").read_text()
    (small_copy.root / name).write_text(left)
    output = small_copy.dvc("repro", "--force", STAGE, check=False).stdout
    assert message in output
    assert message in (ROOT / "docs" / "troubleshooting.md").read_text()
    assert crashes.repair_locks(small_copy, valid_lock)
    assert not crashes.repair_locks(small_copy, valid_lock)
    assert "Data and pipelines are up to date." in small_copy.dvc("repro").stdout
