"""kill -9 at any moment, then the same command: the same bytes."""

import multiprocessing
import os
import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from finetune import paths
from tests.tiny_training import results, write_params

KILLS = 6


def train_in(root: Path, tracking_uri: str) -> None:
    """The stage's command in `root`, in a process of its own."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    os.environ.pop("DVC_ROOT", None)
    os.chdir(root)
    from stages.train import main  # here: whoever only collects the tests is spared the import

    main()


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Makes processes that have imported everything already, without the threads that a fork of this one would lose."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.train"])
    return context


def copy_of(training_root: Path, root: Path) -> Path:
    shutil.copytree(training_root, root)
    # a checkpoint after every step, so that much of the time goes into writing them
    write_params(root, checkpoint_steps=1, gradient_accumulation_steps=2)
    return root


def weights(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in results(root).items() if name.startswith(str(paths.TUNED))}


def seconds_of_training(process: BaseProcess, root: Path) -> float:
    wait_for_the_first_step(process, root)
    begun = time.monotonic()
    process.join()
    return time.monotonic() - begun


def wait_for_the_first_step(process: BaseProcess, root: Path) -> None:
    while process.is_alive() and not (root / ".dvc/tmp/resume").exists():
        time.sleep(0.01)


def wait_for_a_moment(process: BaseProcess, root: Path, seconds: float, while_writing: bool) -> bool:
    """So long after the first step, if asked until a checkpoint is half written. False if it was too late."""
    resume = root / ".dvc/tmp/resume"
    wait_for_the_first_step(process, root)
    process.join(seconds)
    while while_writing and process.is_alive() and not any(resume.rglob(".*.partial")):
        pass
    return process.is_alive()


def test_a_killed_run_ends_in_the_bytes_of_one_that_was_not(
    training_root: Path, tracking_uri: str, tmp_path: Path, server: multiprocessing.context.ForkServerContext
) -> None:
    def start(root: Path) -> BaseProcess:
        process = server.Process(target=train_in, args=(root, tracking_uri))
        process.start()
        return process

    straight, killed = (copy_of(training_root, tmp_path / name) for name in ("straight", "killed"))
    whole = start(straight)
    usual = seconds_of_training(whole, straight)
    assert whole.exitcode == 0
    dice = random.Random(0)
    kills = halves = 0
    for number in range(KILLS):
        process = start(killed)
        if wait_for_a_moment(process, killed, dice.uniform(0, usual / 4), while_writing=number % 2 == 0):
            process.kill()
            kills += 1
        process.join()
        halves += any((killed / ".dvc/tmp/resume").rglob(".*.partial"))
        assert process.exitcode in (-9, 0)
        if process.exitcode == 0:
            break
        # a kill after the weights are in place and before the process has ended
        assert not (killed / paths.TUNED).exists() or weights(killed) == weights(straight)
    last = start(killed)
    last.join()
    assert last.exitcode == 0
    assert kills >= 2
    assert halves >= 1, "no kill hit a checkpoint that was being written"
    assert results(killed) == results(straight)
