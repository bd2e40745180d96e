"""Items side by side in threads, of which each computes alone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
Result = TypeVar("Result")


def one_thread_each(work: Callable[[T], Result], items: Iterable[T], device: torch.device) -> Iterator[Result]:
    """Like `map`; on a CPU for as many items at once as torch has threads there, a GPU takes one after another.

    The sums of a convolution depend on how many threads share it; an item of its own for each does not, and is
    quicker besides.
    """
    at_once = torch.get_num_threads() if device.type == "cpu" else 1
    remaining = iter(items)
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while group := list(islice(remaining, at_once)):
            yield from pool.map(work, group)
