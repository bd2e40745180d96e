"""Checkpoints: atomic writes, pruning, and one folder per run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.errors import InputError
from finetune.training.checkpoints import (
    Checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@contextmanager
def opened(key: str) -> Iterator[Checkpoints]:
    checkpoints = Checkpoints(key)
    with checkpoints.exclusive():
        yield checkpoints


def test_only_the_newest_checkpoint_is_kept_and_loaded() -> None:
    with opened("abc") as checkpoints:
        for step in (5, 10, 1000):
            checkpoints.save(step, {"x": torch.full((2,), float(step))}, {"extra": "e"})
        latest = checkpoints.load_latest()
        assert latest is not None
        tensors, state = latest
        assert state == {"extra": "e", "step": 1000, "key": "abc"}
        assert tensors["x"].tolist() == [1000.0, 1000.0]
        assert len(list(checkpoints.folder.iterdir())) == 1


def test_prune_best_keeps_only_the_given_step() -> None:
    with opened("abc") as checkpoints:
        for step in (5, 10, 15):
            checkpoints.save_best(step, {"x": torch.full((2,), float(step))})
        checkpoints.prune_best(10)
        assert [file.name for file in checkpoints.folder.iterdir()] == ["best-00000010.safetensors"]
        assert checkpoints.load_best(10)["x"].tolist() == [10.0, 10.0]


def test_existing_checkpoints_reduce_the_required_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    with opened("abc") as checkpoints:
        checkpoints.require_space(3 * 2**20)
        with pytest.raises(
            InputError, match=r"abc: checkpoints and weights of this run need .* free some space and run again$"
        ):
            checkpoints.require_space(5 * 2**20)
        checkpoints.save(1, {"x": torch.zeros(2**18)}, {})
        checkpoints.save_best(1, {"x": torch.zeros(2**18)})
        checkpoints.require_space(5 * 2**20)


def test_second_process_cannot_train_the_same_run() -> None:
    with opened("abc"), pytest.raises(InputError, match="another process"), opened("abc"):
        pass
    with opened("abc"):  # released
        pass


def test_checkpoints_of_a_rerun_are_not_pruned_by_other_runs() -> None:
    with opened("abc") as checkpoints:
        checkpoints.save(1, {"x": torch.zeros(1)}, {})
        checkpoints.mark_complete()
    with opened("abc") as checkpoints, opened("def"):
        assert checkpoints.load_latest() is not None


def test_completed_run_can_be_pruned_by_two_processes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("abc") as checkpoints:
        checkpoints.mark_complete()
    rmtree = shutil.rmtree

    def rmtree_twice(folder: Path, **options: bool) -> None:
        rmtree(folder)
        rmtree(folder, **options)

    monkeypatch.setattr("shutil.rmtree", rmtree_twice)
    with opened("def"):
        assert not checkpoints.folder.exists()


def test_restored_optimizer_takes_the_same_next_step() -> None:
    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(torch.ones(3))
        return parameter, torch.optim.AdamW([parameter], lr=0.1)

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        (parameter**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    parameter, optimizer = make()
    step(parameter, optimizer)
    restored, restored_optimizer = make()
    restored.data = parameter.data.clone()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    restore_optimizer(restored_optimizer, saved)
    step(parameter, optimizer)
    step(restored, restored_optimizer)
    assert torch.equal(parameter, restored)


class WithQuantizationMap(torch.optim.SGD):
    """Has the state of a bitsandbytes optimizer: a shared quantization map, an int step, a wrapped state_dict."""

    def fill(self) -> None:
        qmap = torch.arange(3.0)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {"step": 2, "state1": torch.ones(3, dtype=torch.uint8), "qmap1": qmap}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"state": {0: {"__bnb_optimizer_quant_state__": {}}}}


def test_quantized_optimizer_state_is_saved_completely(tmp_path: Path) -> None:
    optimizer = WithQuantizationMap([torch.nn.Parameter(torch.ones(3)) for _ in range(2)])
    optimizer.fill()
    save_checkpoint(tmp_path / "point.safetensors", optimizer_tensors(optimizer), {})
    loaded = {name: tensor.tolist() for name, tensor in load_checkpoint(tmp_path / "point.safetensors")[0].items()}
    slot = {"step": 2, "state1": [1, 1, 1], "qmap1": [0, 1, 2]}
    assert loaded == {f"{index}.{name}": value for index in (0, 1) for name, value in slot.items()}
