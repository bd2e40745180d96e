import copy

import pytest
import torch
from torch import Tensor, nn

from sample.parallel_batches import ParallelBatches


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return model(batch[0]).square().mean()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    alone, batch = copy.deepcopy(model), (torch.randn(8, 5),)
    loss(alone, batch).backward()
    batches = ParallelBatches(model, loss, parts)
    assert batches.backward(batch) == pytest.approx(loss(alone, batch).item(), rel=1e-5)
    for mine, its in zip(model.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.allclose(mine.grad, its.grad, atol=1e-6)
