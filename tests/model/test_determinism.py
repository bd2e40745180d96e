"""Single-threaded mapping and deterministic kernels."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from finetune.model.determinism import map_single_threaded, set_determinism

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_are_in_the_order_of_the_items() -> None:
    assert list(map_single_threaded(lambda number: number * number, range(7), CPU)) == [0, 1, 4, 9, 16, 25, 36]


@pytest.mark.usefixtures("two_threads")
def test_each_item_uses_one_thread() -> None:
    assert list(map_single_threaded(lambda _: torch.get_num_threads(), range(3), CPU)) == [1, 1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_items_are_read_lazily() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    next(map_single_threaded(abs, items(), CPU))
    assert read == [0, 1]


@pytest.mark.usefixtures("two_threads")
def test_errors_are_raised_unchanged() -> None:
    def fail(number: int) -> Tensor:
        raise KeyError(number)

    with pytest.raises(KeyError, match="0"):
        list(map_single_threaded(fail, range(3), CPU))


def test_gpu_processes_one_item_at_a_time() -> None:
    read: list[int] = []
    next(map_single_threaded(abs, (read.append(number) or number for number in range(9)), torch.device("cuda")))
    assert read == [0]


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unchanged")
    yield
    set_determinism(deterministic=False)


def nondeterministic_operation() -> None:
    """Write two values to the same element; either may remain, on a CPU too."""
    torch.zeros(1).put_(torch.zeros(2, dtype=torch.int64), torch.arange(2.0))


def test_deterministic_mode_rejects_nondeterministic_operations() -> None:
    set_determinism(deterministic=True)
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        nondeterministic_operation()


def test_default_mode_restores_the_fastest_kernels() -> None:
    set_determinism(deterministic=True)
    set_determinism(deterministic=False)
    assert not torch.backends.cudnn.deterministic
    nondeterministic_operation()
