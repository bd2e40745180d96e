"""Reproducible computation: named random seeds, fixed thread counts, deterministic kernels, full precision."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
Result = TypeVar("Result")
PRECISION = "float32, TF32 off"


def derive_seed(seed: int, *labels: str | int) -> int:
    """Derive a 63-bit seed from a seed and labels, such as `derive_seed(7, "noise", step)`."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose. It depends on seed and labels only, not on the order of other draws."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_single_threaded(work: Callable[[T], Result], items: Iterable[T], device: torch.device) -> Iterator[Result]:
    """Map in order, with one thread per item: several items in parallel on a CPU, one at a time on a GPU.

    On a CPU, results would otherwise depend on the number of threads, because sums in a convolution are split
    between them. One item per thread is also faster.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    remaining = iter(items)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while group := list(islice(remaining, workers)):
            yield from pool.map(work, group)


def set_determinism(deterministic: bool) -> None:
    """Choose between deterministic and fastest GPU kernels for this process, before its first matrix product.

    Follows https://docs.pytorch.org/docs/stable/notes/randomness.html. An operation without a deterministic kernel
    raises a RuntimeError that names it. CPU results do not change.
    """
    if deterministic:  # cuBLAS reads this on first use; PyTorch raises an error without it
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # filling new memory only exposes kernels that read uninitialized values; it costs time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32, which would change features by about 0.1%.

    PyTorch enables it for convolutions by default, and some containers enable it for matrix products through
    `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE`.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
