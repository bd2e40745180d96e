"""The short form of `make crash-matrix`: the stage that starts in no time, each fault that needs no mount."""

import pytest

from tests.e2e.conftest import ROOT, Copy
from tests.tools import crashes

STAGE = "preprocess-512@coco"


def test_a_killed_stage_ends_in_the_hashes_of_one_that_was_not(small_copy: Copy) -> None:
    found = list(crashes.outcomes(small_copy, STAGE, None, kills=2, seed=0))
    assert [outcome for outcome in found if not outcome.identical] == []
    assert sum(outcome.hits for outcome in found) >= 1


def test_forgetting_a_stage_makes_it_run_again(small_copy: Copy) -> None:
    before = crashes.stages_of(small_copy)[STAGE]
    crashes.forget(small_copy, STAGE)
    assert f"Running stage '{STAGE}'" in small_copy.dvc("repro", "--dry", STAGE).stdout
    assert crashes.finishes_as(small_copy, STAGE, before)


@pytest.mark.parametrize(
    ("name", "left", "message"),
    [
        ("dvc.lock", "", "validation failed"),
        (".dvc/tmp/rwlock", "", "Unable to read RWLock-file"),
        (".dvc/tmp/rwlock", '{"/a": {"write": {"pid": 1, "cmd": ', "Unable to read RWLock-file"),
    ],
)
def test_a_file_that_dvc_was_killed_over_is_mended_by_hand(
    small_copy: Copy, name: str, left: str, message: str
) -> None:
    """DVC empties these before it writes them anew: nothing else is lost, and nothing runs again."""
    whole = (small_copy.root / "dvc.lock").read_text()
    (small_copy.root / name).write_text(left)
    told = small_copy.dvc("repro", "--force", STAGE, check=False).stdout
    assert message in told
    assert message in (ROOT / "docs" / "troubleshooting.md").read_text()
    assert crashes.mend_locks(small_copy, whole)
    assert not crashes.mend_locks(small_copy, whole)
    assert "Data and pipelines are up to date." in small_copy.dvc("repro").stdout
