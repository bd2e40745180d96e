"""Training with two processes, started by the real launcher over gloo."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune import paths
from finetune.errors import InputError
from stages.train import train
from tests.builders.tiny_training import STEPS, inputs_below, outputs_below, results, small_params, write_params

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
TIMEOUT = 600


def launch(root: Path, tracking_uri: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": tracking_uri, "OMP_NUM_THREADS": "1"}
    environment.pop("DVC_ROOT", None)
    command = [*LAUNCH, "--main_process_port", "0", "-m", "stages.train"]
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def curve(root: Path) -> list[dict[str, float]]:
    with (root / paths.TRAIN_CURVES / "loss.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def one_process(inputs: dict[str, Any], tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "one"
    root.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    train(**inputs, **outputs_below(root), params=small_params(), experiment={})
    return root


def test_two_processes_resume_exactly_and_match_the_loss_of_one(
    training_root: Path, one_process: Path, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, root = tmp_path / "straight", tmp_path / "stopped"
    for folder in (straight, root):
        shutil.copytree(training_root, folder)
        write_params(folder, checkpoint_steps=1)
    uninterrupted = launch(straight, tracking_uri)
    stopped = launch(root, tracking_uri)
    deadline = time.monotonic() + TIMEOUT
    while not list((root / ".dvc/tmp/resume").rglob("step-*")) and stopped.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=TIMEOUT)
    assert stopped.returncode != 0, output
    assert output.count("checkpoint saved at step") == 1, output
    assert not (root / paths.TUNED).exists()

    monkeypatch.setenv("DVC_ROOT", str(root))
    (folder,) = (path.parent for path in (root / ".dvc/tmp/resume").rglob("step-*"))
    monkeypatch.setattr("stages.train.run_key", lambda *_: folder.name)
    with pytest.raises(
        InputError, match=r"was saved by 2 processes, and 1 would round differently; start 2, or delete"
    ):
        train(**inputs_below(root), **outputs_below(root), params=small_params(), experiment={})

    resumed = launch(root, tracking_uri)
    output, _ = resumed.communicate(timeout=TIMEOUT)
    assert resumed.returncode == 0, output
    assert output.count("resuming from step") == 1, output
    output, _ = uninterrupted.communicate(timeout=TIMEOUT)
    assert uninterrupted.returncode == 0, output
    assert results(root) == results(straight)
    assert [row["step"] for row in curve(root)] == [10, STEPS]
    for one, two in zip(curve(one_process), curve(root), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
