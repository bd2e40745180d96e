"""Checkpoints: whole, few, and only for the run they belong to."""

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


def test_the_newest_checkpoint_is_the_one_to_go_on_from_and_the_only_one() -> None:
    with opened("abc") as checkpoints:
        for step in (5, 10, 1000):
            checkpoints.save(step, {"x": torch.full((2,), float(step))}, {"note": "n"})
        latest = checkpoints.load_latest()
        assert latest is not None
        tensors, state = latest
        assert state == {"note": "n", "step": 1000, "key": "abc"}
        assert tensors["x"].tolist() == [1000.0, 1000.0]
        assert len(list(checkpoints.folder.iterdir())) == 1


def test_of_the_best_weights_the_ones_that_a_checkpoint_names_are_kept() -> None:
    with opened("abc") as checkpoints:
        for step in (5, 10, 15):
            checkpoints.save_best(step, {"x": torch.full((2,), float(step))})
        checkpoints.keep_best(10)
        assert [file.name for file in checkpoints.folder.iterdir()] == ["best-00000010.safetensors"]
        assert checkpoints.load_best(10)["x"].tolist() == [10.0, 10.0]


def test_what_a_run_holds_already_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_two_processes_cannot_train_the_same_run() -> None:
    with opened("abc"), pytest.raises(InputError, match="another process"), opened("abc"):
        pass
    with opened("abc"):  # free again
        pass


def test_a_run_does_not_see_the_checkpoints_of_another() -> None:
    with opened("abc") as checkpoints:
        checkpoints.save(1, {"x": torch.zeros(1)}, {})
    with opened("def") as checkpoints:
        assert checkpoints.load_latest() is None


def test_a_run_that_is_trained_again_keeps_its_checkpoints_from_others() -> None:
    with opened("abc") as checkpoints:
        checkpoints.save(1, {"x": torch.zeros(1)}, {})
        checkpoints.mark_complete()
    with opened("abc") as checkpoints, opened("def"):
        assert checkpoints.load_latest() is not None


def test_two_that_remove_a_finished_run_at_once_do_not_harm_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("abc") as checkpoints:
        checkpoints.mark_complete()
    remove = shutil.rmtree

    def remove_after_another(folder: Path, **options: bool) -> None:
        remove(folder)
        remove(folder, **options)

    monkeypatch.setattr("shutil.rmtree", remove_after_another)
    with opened("def"):
        assert not checkpoints.folder.exists()


def test_a_write_that_dies_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "point.safetensors"
    save_checkpoint(path, {"x": torch.zeros(1)}, {"step": 1})

    def die(*_: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(OSError, match="killed"):
        save_checkpoint(path, {"x": torch.ones(1)}, {"step": 2})
    assert load_checkpoint(path)[1] == {"step": 1}


def test_an_optimizer_goes_on_as_if_it_had_never_stopped() -> None:
    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(torch.ones(3))
        return parameter, torch.optim.AdamW([parameter], lr=0.1)

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        (parameter**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    one, its_optimizer = make()
    step(one, its_optimizer)
    other, another_optimizer = make()
    other.data = one.data.clone()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(its_optimizer).items()}
    restore_optimizer(another_optimizer, saved)
    step(one, its_optimizer)
    step(other, another_optimizer)
    assert torch.equal(one, other)


class WithQuantizationMap(torch.optim.SGD):
    """Its state is as in bitsandbytes: one map for all parameters, a plain number of steps, a wrapped state_dict."""

    def fill(self) -> None:
        qmap = torch.arange(3.0)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {"step": 2, "state1": torch.ones(3, dtype=torch.uint8), "qmap1": qmap}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"state": {0: {"__bnb_optimizer_quant_state__": {}}}}


def test_a_quantized_optimizer_is_saved_whole(tmp_path: Path) -> None:
    optimizer = WithQuantizationMap([torch.nn.Parameter(torch.ones(3)) for _ in range(2)])
    optimizer.fill()
    save_checkpoint(tmp_path / "point.safetensors", optimizer_tensors(optimizer), {})
    loaded = {name: tensor.tolist() for name, tensor in load_checkpoint(tmp_path / "point.safetensors")[0].items()}
    slot = {"step": 2, "state1": [1, 1, 1], "qmap1": [0, 1, 2]}
    assert loaded == {f"{index}.{name}": value for index in (0, 1) for name, value in slot.items()}
