"""The short form of `make crash-matrix`: three stages, each fault once."""

import pytest

from tests.e2e import crashes
from tests.e2e.conftest import Copy

STAGES = ("preprocess-512@coco", "latents@coco", "fid")


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_in_the_hashes_of_one_that_was_not(small_copy: Copy, stage: str) -> None:
    found = list(crashes.outcomes(small_copy, stage, None, kills=2, seed=0))
    assert [outcome for outcome in found if not outcome.identical] == []
    assert sum(outcome.hits for outcome in found) >= 1


def test_forgetting_a_stage_makes_it_run_again(small_copy: Copy) -> None:
    before = crashes.stages_of(small_copy)["fid"]
    crashes.forget(small_copy, "fid")
    assert "Running stage 'fid'" in small_copy.dvc("repro", "--dry", "fid").stdout
    assert crashes.finishes_as(small_copy, "fid", before)
