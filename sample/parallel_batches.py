"""Gradients of a batch whose parts go through copies of a network, a thread each.

On a few CPU cores this is faster than several threads on each operation of the whole batch, which wait for each other.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor, nn


class ParallelBatches:
    """A network and copies of it with the same weights and gradients of their own."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, tuple[Tensor, ...]], Tensor], parts: int) -> None:
        self.models = [model, *(copy.deepcopy(model) for _ in range(parts - 1))]
        for other in self.models[1:]:
            for mine, its in zip(model.parameters(), other.parameters(), strict=True):
                its.data = mine.data
        self.loss = loss
        self.pool = ThreadPoolExecutor(max(1, parts - 1))

    def backward(self, batch: tuple[Tensor, ...]) -> float:
        """Leave the gradients of the mean loss in the first network; return that loss."""
        first, *others = self.models
        size = -(-len(batch[0]) // len(self.models))
        parts = [tuple(tensor[i * size : (i + 1) * size] for tensor in batch) for i in range(len(self.models))]
        waiting = [self.pool.submit(self._part, m, p) for m, p in zip(others, parts[1:], strict=True)]
        loss = self._part(first, parts[0]) + sum(each.result() for each in waiting)
        for other in others:
            for mine, its in zip(first.parameters(), other.parameters(), strict=True):
                if mine.grad is not None and its.grad is not None:
                    mine.grad.add_(its.grad)
                its.grad = None
        return loss

    def _part(self, model: nn.Module, batch: tuple[Tensor, ...]) -> float:
        loss = self.loss(model, batch) / len(self.models)
        loss.backward()
        return loss.item()
