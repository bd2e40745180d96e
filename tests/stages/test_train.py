"""Train stage: interrupted runs resume to byte-identical results."""

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
from tests.builders.tiny_training import NEEDS_BITSANDBYTES, Trained
from tests.builders.trainers import (
    OVERFLOWING,
    Fp16Gradients,
    fake_validation,
    fp16_accelerator,
    interrupted_at,
    signalled_at,
)


@pytest.mark.parametrize(
    ("step", "changes"),
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
def test_interrupted_run_resumes_to_identical_bytes(
    trained: Trained, tmp_path: Path, changes: dict[str, Any], step: int
) -> None:
    straight = trained("straight", "root1", **changes)
    with interrupted_at(step):
        trained("resumed", "root2", **changes)
    assert not (tmp_path / "resumed").exists(), "an unfinished run leaves no output"
    assert list((tmp_path / "root2/.dvc/tmp/resume").rglob("step-*.safetensors"))
    assert trained("resumed", "root2", **changes) == straight
    assert last_checkpoint(tmp_path / "root1") == last_checkpoint(tmp_path / "root2")


def last_checkpoint(root: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the tensors and the state of the last checkpoint, without the random id of the MLflow run."""
    (file,) = (root / ".dvc/tmp/resume").rglob("step-*")
    tensors, state = load_checkpoint(file)
    assert {name.split(".")[0] for name in tensors} >= {"trainable", "ema", "optimizer"}
    del state["training_id"]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, state


def test_run_with_other_parameters_ignores_the_checkpoint(trained: Trained) -> None:
    with interrupted_at(4):
        trained("a")
    assert trained("b", lr=1e-4) == trained("c", "clean", lr=1e-4)


def test_completed_run_keeps_its_last_checkpoint_until_a_different_run(trained: Trained, tmp_path: Path) -> None:
    """If DVC is killed while it hashes the outputs, a rerun takes no step."""
    first = trained()
    resume = tmp_path / "root/.dvc/tmp/resume"
    (kept,) = resume.rglob("step-*.safetensors")
    assert kept.name == "step-00000012.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "step", None)
        assert trained("again") == first
    trained("other", epochs=1)
    assert not kept.exists()


def test_run_resumes_with_a_new_mlflow_store(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trained("straight", "root1")
    with interrupted_at(4):
        trained("out", "root2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    assert trained("out", "root2") == straight


def test_training_neither_uses_nor_changes_global_random_state(trained: Trained) -> None:
    """Validation, sample images and LoRA's initialization also depend on train.seed alone."""
    results = []
    for name, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        results.append(trained(name, f"{name}_root", lora_rank=2))
        assert torch.initial_seed() == seed
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert results[0] == results[1]


def test_deterministic_parameter_selects_the_kernels_and_changes_nothing_on_a_cpu(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate, enabled = Trainer._accumulate, set[bool]()

    def record_and_accumulate(self: Trainer, number: int) -> Tensor:
        enabled.add(torch.are_deterministic_algorithms_enabled())
        return accumulate(self, number)

    monkeypatch.setattr(Trainer, "_accumulate", record_and_accumulate)
    results = []
    for deterministic in (True, False):
        enabled.clear()
        results.append(trained(str(deterministic), deterministic=deterministic))
        assert enabled == {deterministic}
    if not torch.cuda.is_available():
        assert results[0] == results[1]


def test_cpu_threads_parameter_overrides_the_machine(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(Trainer, "step", lambda *_: used.append(torch.get_num_threads()) or os.kill(os.getpid(), 2))
    torch.set_num_threads(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(cpu_threads=3)
    finally:
        torch.set_num_threads(1)
    assert used == [3]


def test_best_weights_survive_an_interruption(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_validation(monkeypatch, 3.0, 1.0, 2.0)
    straight = trained("straight", "root1")
    fake_validation(monkeypatch, 3.0, 1.0, 2.0)
    with interrupted_at(8):
        trained("resumed", "root2")
    assert [file.name for file in (tmp_path / "root2").rglob("best-*")] == ["best-00000006.safetensors"]
    assert trained("resumed", "root2") == straight


def test_overflowed_steps_are_counted_and_resume_exactly(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "make_accelerator", lambda _: fp16_accelerator(OVERFLOWING))
    monkeypatch.setattr(stage, "Denoiser", Fp16Gradients)
    straight = trained("straight", "root1")
    assert 2 < json.loads(straight["metrics/train.json"])["skipped_steps"] < 12
    with interrupted_at(1):
        trained("resumed", "root2")
    assert trained("resumed", "root2") == straight
    _, state = last_checkpoint(tmp_path / "root1")
    assert last_checkpoint(tmp_path / "root2")[1] == state
    assert state["scaler"]["scale"] < OVERFLOWING


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signal_saves_a_checkpoint_and_logs_how_to_resume(
    trained: Trained, caplog: pytest.LogCaptureFixture, signum: signal.Signals, error: type[BaseException]
) -> None:
    caplog.set_level("INFO")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), signalled_at(4, signum):
        run_stage(lambda: trained() and None)
    signal.signal(signal.SIGTERM, handler)
    assert "checkpoint saved at step 5/12; rerun the same command to resume" in caplog.text


@pytest.fixture
def checkpoint(trained: Trained, tmp_path: Path) -> Path:
    """The checkpoint of a run that was interrupted at step 5."""
    with interrupted_at(4):
        trained()
    (file,) = (tmp_path / "root").rglob("step-*")
    return file


def test_error_names_a_truncated_checkpoint(trained: Trained, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^{checkpoint}: not a valid checkpoint .*; delete it and run again$"):
        trained()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("key", "0123456789abcdef", r"belongs to a different run \(0123456789abcdef\)"),
        ("processes", 2, "at step 5 was saved by 2 processes, and 1 would round differently; start 2"),
    ],
)
def test_checkpoint_that_would_change_the_result_is_rejected(
    trained: Trained, checkpoint: Path, key: str, value: Any, message: str
) -> None:
    tensors, state = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, tensors, state | {key: value})
    with pytest.raises(InputError, match=message):
        trained()


def test_full_disk_keeps_the_last_checkpoint(trained: Trained, tmp_path: Path) -> None:
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
