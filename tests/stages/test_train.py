"""Training: exact resumption, whatever stops it."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune.errors import InputError
from finetune.stage import run_stage
from finetune.training import checkpoints
from finetune.training.checkpoints import load_checkpoint, save_checkpoint
from finetune.training.trainer import Trainer
from stages import train as stage
from tests.builders.half_gradients import OVERFLOWING, HalfGradients, scaled_accelerator
from tests.builders.steered_training import interrupted_at, script_looks, signalled_at
from tests.builders.tiny_training import NEEDS_BITSANDBYTES, Trained


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (0, {}),
        (4, {}),
        (11, {}),
        (2, {"gradient_accumulation_steps": 2}),
        (4, {"channels_last": True, "optimizer": "adamw-fused", "ema_interval": 3}),
        pytest.param(4, {"optimizer": "adamw-8bit"}, marks=NEEDS_BITSANDBYTES),
        (7, {"lora_rank": 2, "lr": 1e-2}),
        (7, {"text_encoder_lr": 1e-4, "min_snr_gamma": 5.0, "noise_offset": 0.1, "gradient_checkpointing": True}),
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_to_the_very_same_bytes(
    trained: Trained, tmp_path: Path, changes: dict[str, Any], stop_at: int
) -> None:
    straight = trained("straight", "root1", **changes)
    with interrupted_at(stop_at):
        trained("stopped", "root2", **changes)
    assert not (tmp_path / "stopped").exists(), "an unfinished run leaves no output"
    assert list((tmp_path / "root2/.dvc/tmp/resume").rglob("step-*.safetensors"))
    resumed = trained("stopped", "root2", **changes)
    assert resumed == straight
    one, other = (last_state(tmp_path / root) for root in ("root1", "root2"))
    assert one == other


def last_state(root: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Weights, averages and optimizer of the last checkpoint, and what stands beside them but for MLflow's name."""
    (file,) = (root / ".dvc/tmp/resume").rglob("step-*")
    tensors, state = load_checkpoint(file)
    assert {name.split(".")[0] for name in tensors} >= {"learned", "averaged", "optimizer"}
    del state["training_id"]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, state


def test_a_run_with_other_parameters_does_not_see_the_checkpoint(trained: Trained) -> None:
    with interrupted_at(4):
        trained("a")
    assert trained("b", lr=1e-4) == trained("c", "clean", lr=1e-4)


def test_a_finished_run_keeps_its_last_checkpoint_until_another_run(trained: Trained, tmp_path: Path) -> None:
    """DVC may be killed while it hashes the outputs: then nothing is trained again."""
    first = trained()
    resume = tmp_path / "root/.dvc/tmp/resume"
    (kept,) = resume.rglob("step-*.safetensors")
    assert kept.name == "step-00000012.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_accumulate", None)  # no step is made
        assert trained("again") == first
    trained("other", epochs=1)
    assert not kept.exists()


def test_a_run_whose_mlflow_store_is_gone_goes_on_in_a_new_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trained("straight", "root1")
    with interrupted_at(4):
        trained("out", "root2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'another.db'}")
    assert trained("out", "root2") == straight


def test_a_run_neither_takes_nor_gives_randomness(trained: Trained) -> None:
    """Looks at held-out images, sample images and LoRA's start included: all follow from train.seed."""
    written = []
    for name, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        written.append(trained(name, f"{name}_root", lora_rank=2))
        assert torch.initial_seed() == seed
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert written[0] == written[1]


def test_every_step_is_computed_by_the_kernels_that_the_parameter_names_and_a_cpu_s_are_the_same(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate, seen = Trainer._accumulate, set[bool]()

    def step(self: Trainer, number: int) -> Tensor:
        seen.add(torch.are_deterministic_algorithms_enabled())
        return accumulate(self, number)

    monkeypatch.setattr(Trainer, "_accumulate", step)
    written = []
    for deterministic in (True, False):
        seen.clear()
        written.append(trained(str(deterministic), deterministic=deterministic))
        assert seen == {deterministic}
    if not torch.cuda.is_available():
        assert written[0] == written[1]


def test_a_parameter_and_not_the_machine_decides_how_many_threads_share_a_sum(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Trainer, "step", lambda *_: seen.append(torch.get_num_threads()) or os.kill(os.getpid(), 2))
    torch.set_num_threads(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(cpu_threads=3)
    finally:
        torch.set_num_threads(1)
    assert seen == [3]


def test_the_best_weights_survive_a_stop(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_looks(monkeypatch, 3.0, 1.0, 2.0)
    straight = trained("straight", "root1")
    script_looks(monkeypatch, 3.0, 1.0, 2.0)
    with interrupted_at(8):
        trained("stopped", "root2")
    assert [file.name for file in (tmp_path / "root2").rglob("best-*")] == ["best-00000006.safetensors"]
    assert trained("stopped", "root2") == straight


def test_overflowed_steps_are_counted_and_a_stop_among_them_changes_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Accelerator", lambda **_: scaled_accelerator(OVERFLOWING))
    monkeypatch.setattr(stage, "Denoiser", HalfGradients)
    straight = trained("straight", "root1")
    assert 2 < json.loads(straight["metrics/train.json"])["skipped_steps"] < 12
    with interrupted_at(1):
        trained("stopped", "root2")
    assert trained("stopped", "root2") == straight
    one, other = (last_state(tmp_path / root) for root in ("root1", "root2"))
    assert one == other
    assert one[1]["scaler"]["scale"] < OVERFLOWING, "the loss scale is in it"


@pytest.mark.parametrize(("signum", "ended"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_stop_says_how_to_go_on(
    trained: Trained, caplog: pytest.LogCaptureFixture, signum: signal.Signals, ended: type[BaseException]
) -> None:
    """What the command then prints: tests/test_stage.py."""
    caplog.set_level("INFO")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ended), signalled_at(4, signum):
        run_stage(lambda: trained() and None)
    signal.signal(signal.SIGTERM, handler)
    assert "checkpoint written at step 5 of 12; the same command goes on from it" in caplog.text


@pytest.fixture
def stopped(trained: Trained, tmp_path: Path) -> Path:
    """The newest checkpoint of a run that waits at step 5."""
    with interrupted_at(4):
        trained()
    (file,) = (tmp_path / "root").rglob("step-*")
    return file


def test_a_torn_checkpoint_is_refused_by_name(trained: Trained, stopped: Path) -> None:
    stopped.write_bytes(stopped.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^{stopped}: not a whole checkpoint .*; remove it and run again$"):
        trained()


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("key", "0123456789abcdef", "a checkpoint of another run"),
        ("processes", 2, "step 5 was reached by 2 processes, and 1 round in another order; start 2"),
    ],
)
def test_a_checkpoint_that_would_change_the_result_is_refused(
    trained: Trained, stopped: Path, key: str, value: Any, fault: str
) -> None:
    tensors, state = load_checkpoint(stopped)
    save_checkpoint(stopped, tensors, state | {key: value})
    with pytest.raises(InputError, match=fault):
        trained()


def test_a_full_disk_leaves_the_last_checkpoint(trained: Trained, tmp_path: Path) -> None:
    straight = trained("straight", "root1")
    save = checkpoints.save_file

    def fail_at_the_second(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata)
        if "step-00000010" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as caught:
        patched.setattr(checkpoints, "save_file", fail_at_the_second)
        run_stage(lambda: trained("out", "root2") and None)
    assert re.fullmatch("error: no space left on the disk at .*; free some and run again", str(caught.value.code))
    assert [file.name for file in (tmp_path / "root2").rglob("step-*")] == ["step-00000005.safetensors"]
    assert trained("out", "root2") == straight
