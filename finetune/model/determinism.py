"""Randomness as a function of names: the same seed and labels give the same numbers anywhere, in any order."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that depends on every label, for example `derive_seed(7, "noise", step)`."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose, so that no draw can disturb another."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


T = TypeVar("T")
Result = TypeVar("Result")


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_single_threaded(work: Callable[[T], Result], items: Iterable[T], device: torch.device) -> Iterator[Result]:
    """Like `map`; on a CPU for as many items at once as torch has threads there, a GPU takes one after another.

    The sums of a convolution depend on how many threads share it; an item of its own for each does not, and is
    quicker besides.
    """
    at_once = torch.get_num_threads() if device.type == "cpu" else 1
    remaining = iter(items)
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while group := list(islice(remaining, at_once)):
            yield from pool.map(work, group)


def set_determinism(deterministic: bool) -> None:
    """For the whole process, before its first matrix product.

    By PyTorch's notes on reproducibility, https://docs.pytorch.org/docs/stable/notes/randomness.html. An operation
    that has no deterministic kernel raises RuntimeError and names itself. A CPU's results are the same either way.
    """
    if deterministic:  # cuBLAS reads it when it is first used; PyTorch refuses to go on without it
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # it fills new memory to expose kernels that read it unwritten, which costs time and makes nothing deterministic
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


PRECISION = "float32, TF32 off"


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions use TF32 unless told not to, products of matrices where the environment asks for it
    (`TORCH_ALLOW_TF32_CUBLAS_OVERRIDE`, as some containers do): either would move features by a thousandth.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
