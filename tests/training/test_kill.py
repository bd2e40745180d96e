"""A killed training resumes to byte-identical results; a stopped one writes no outputs."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from finetune import paths
from tests.builders.tiny_training import results, write_params

KILLS = 3  # during a checkpoint, and again at random moments


def train_in(root: Path, tracking_uri: str, dies_at_write: int | None = None, ignored: int | None = None) -> None:
    """Run the stage in `root`. With `dies_at_write`, SIGKILL hits when the n-th checkpoint awaits its final rename.

    ignored: a signal that the process inherits as ignored, as SIGINT is in a shell script's background jobs.
    """
    if ignored is not None:
        signal.signal(ignored, signal.SIG_IGN)
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    os.environ.pop("DVC_ROOT", None)
    os.chdir(root)
    from stages.train import main  # not at the top: importing it takes seconds

    if dies_at_write is not None:
        die_at_write(dies_at_write)
    main()


def die_at_write(count: int) -> None:
    replace, checkpoints = os.replace, itertools.count(1)

    def replace_or_die(source: Path, target: Path) -> None:
        if ".dvc/tmp/resume" in str(source) and next(checkpoints) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Starts processes with all imports done. Forking pytest itself would lose the threads of its libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.train"])
    return context


def copy_inputs(training_root: Path, root: Path) -> Path:
    shutil.copytree(training_root, root)
    # checkpoint every step, so that much of the time is spent writing checkpoints
    write_params(root, checkpoint_steps=1, gradient_accumulation_steps=2)
    return root


def weights(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in results(root).items() if name.startswith(str(paths.TUNED))}


def measure_training(process: BaseProcess, root: Path) -> float:
    wait_for_the_first_step(process, root)
    started = time.monotonic()
    process.join()
    return time.monotonic() - started


def wait_for_the_first_step(process: BaseProcess, root: Path) -> None:
    while process.is_alive() and not (root / ".dvc/tmp/resume").exists():
        time.sleep(0.01)


def test_killed_training_resumes_to_identical_bytes(
    training_root: Path, tracking_uri: str, tmp_path: Path, server: multiprocessing.context.ForkServerContext
) -> None:
    def start(root: Path, dies_at_write: int | None = None) -> BaseProcess:
        process = server.Process(target=train_in, args=(root, tracking_uri, dies_at_write))
        process.start()
        return process

    straight, killed = (copy_inputs(training_root, tmp_path / name) for name in ("straight", "killed"))
    uninterrupted = start(straight)
    seconds = measure_training(uninterrupted, straight)
    assert uninterrupted.exitcode == 0
    rng = random.Random(0)
    for _ in range(KILLS):
        process = start(killed, dies_at_write=2)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert any((killed / ".dvc/tmp/resume").rglob(".*.partial")), "a checkpoint was being written"
    for _ in range(KILLS):
        process = start(killed)
        wait_for_the_first_step(process, killed)
        process.join(rng.uniform(0, seconds / (2 * KILLS)))
        process.kill()
        process.join()
        # the weights exist if the kill came after they were published
        assert not (killed / paths.TUNED).exists() or weights(killed) == weights(straight)
    last = start(killed)
    last.join()
    assert last.exitcode == 0
    assert results(killed) == results(straight)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_training_stopped_by_a_signal_it_inherited_as_ignored_writes_no_outputs(
    signum: signal.Signals,
    training_root: Path,
    tracking_uri: str,
    tmp_path: Path,
    server: multiprocessing.context.ForkServerContext,
) -> None:
    root = copy_inputs(training_root, tmp_path / "stopped")
    process = server.Process(target=train_in, args=(root, tracking_uri, None, signum))
    process.start()
    while process.is_alive() and not any((root / ".dvc/tmp/resume").glob("*/step-*.safetensors")):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join()
    assert process.exitcode != 0
    assert not (root / paths.TUNED).exists()
    assert not (root / paths.TRAIN_METRICS).exists()
    resumed = server.Process(target=train_in, args=(root, tracking_uri))
    resumed.start()
    resumed.join()
    assert resumed.exitcode == 0
    assert (root / paths.TUNED).exists()
