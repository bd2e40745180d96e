"""A process computes with deterministic kernels alone, or with the quickest."""

import os
from collections.abc import Iterator

import pytest
import torch

from finetune.kernels import choose_kernels


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as before")
    yield
    choose_kernels(deterministic=False)


def put_twice_in_one_place() -> None:
    """Which of the two stays is left open, on a CPU too."""
    torch.zeros(1).put_(torch.zeros(2, dtype=torch.int64), torch.arange(2.0))


def test_deterministic_kernels_are_the_only_ones() -> None:
    choose_kernels(deterministic=True)
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        put_twice_in_one_place()


def test_the_quickest_are_back_when_nothing_is_asked_for() -> None:
    choose_kernels(deterministic=True)
    choose_kernels(deterministic=False)
    assert not torch.backends.cudnn.deterministic
    put_twice_in_one_place()
