"""Training killed inside `dvc repro` resumes from its checkpoint and produces the same hashes."""

import os
import signal
import time

from tests.e2e.conftest import Copy
from tests.tools import crashes

STAGE = "train-fp16"
TIMEOUT = 600


def test_killed_training_resumes_from_its_checkpoint(small_copy: Copy) -> None:
    expected, outputs = crashes.locked_stages(small_copy)[STAGE], crashes.output_paths(small_copy, STAGE)
    crashes.forget(small_copy, STAGE)
    process = crashes.start(small_copy, STAGE)
    deadline = time.monotonic() + TIMEOUT
    while not list((small_copy.root / ".dvc/tmp/resume").rglob("step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any(path.exists() for path in outputs)

    rerun = small_copy.dvc("repro", "--single-item", STAGE).stdout
    assert "resuming from step" in rerun
    assert crashes.locked_stages(small_copy)[STAGE] == expected
    assert crashes.partial_files(small_copy) == []
