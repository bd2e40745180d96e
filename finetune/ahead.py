"""The next batch is made while the last one is computed with."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(n)` for any n, with `make(n + 1)` already under way in a thread: a change of speed, not of values."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1)
        self._next: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        wanted = self._next.pop(number, None) or self._pool.submit(self._make, number)
        self._next = {number + 1: self._pool.submit(self._make, number + 1)}
        return wanted.result()
