"""A process computes with deterministic kernels alone, or with the quickest."""

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
def test_results_come_in_the_order_of_the_items() -> None:
    assert list(map_single_threaded(lambda number: number * number, range(7), CPU)) == [0, 1, 4, 9, 16, 25, 36]


@pytest.mark.usefixtures("two_threads")
def test_each_item_is_computed_by_one_thread_and_the_others_keep_theirs() -> None:
    assert list(map_single_threaded(lambda _: torch.get_num_threads(), range(3), CPU)) == [1, 1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_items_are_read_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    next(map_single_threaded(abs, items(), CPU))
    assert taken == [0, 1]


@pytest.mark.usefixtures("two_threads")
def test_an_error_arrives_as_it_is() -> None:
    def fail(number: int) -> Tensor:
        raise KeyError(number)

    with pytest.raises(KeyError, match="0"):
        list(map_single_threaded(fail, range(3), CPU))


def test_a_gpu_takes_one_item_at_a_time() -> None:
    taken: list[int] = []
    next(map_single_threaded(abs, (taken.append(number) or number for number in range(9)), torch.device("cuda")))
    assert taken == [0]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as before")
    yield
    set_determinism(deterministic=False)


def put_twice_in_one_place() -> None:
    """Which of the two stays is left open, on a CPU too."""
    torch.zeros(1).put_(torch.zeros(2, dtype=torch.int64), torch.arange(2.0))


def test_deterministic_kernels_are_the_only_ones() -> None:
    set_determinism(deterministic=True)
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        put_twice_in_one_place()


def test_the_quickest_are_back_when_nothing_is_asked_for() -> None:
    set_determinism(deterministic=True)
    set_determinism(deterministic=False)
    assert not torch.backends.cudnn.deterministic
    put_twice_in_one_place()
