"""A training that is killed inside `dvc repro` goes on from its checkpoint, to the hashes of one that was not."""

import os
import signal
import time

from tests.e2e.conftest import Copy
from tests.tools import crashes

STAGE = "train-fp16"
SECONDS = 600


def test_a_killed_training_goes_on_from_its_checkpoint(small_copy: Copy) -> None:
    expected, outputs = crashes.stages_of(small_copy)[STAGE], crashes.outputs_of(small_copy, STAGE)
    crashes.forget(small_copy, STAGE)
    process = crashes.start(small_copy, STAGE)
    deadline = time.monotonic() + SECONDS
    while not list((small_copy.root / ".dvc/tmp/resume").rglob("step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any(path.exists() for path in outputs)

    again = small_copy.dvc("repro", "--single-item", STAGE).stdout
    assert "resuming from step" in again
    assert crashes.stages_of(small_copy)[STAGE] == expected
    assert crashes.half_done(small_copy) == []
