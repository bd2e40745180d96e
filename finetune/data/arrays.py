"""Write .npy arrays a few rows at a time, in constant memory, and read them back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from finetune.artifacts import reading


@contextmanager
def array_writer(path: Path, dtype: DTypeLike) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Yield a function that appends rows `[n, ...]`. All rows must have the same shape."""
    count = 0
    row: tuple[int, ...] | None = None

    def write(rows: NDArray[Any]) -> None:
        nonlocal count, row
        if row is None:
            row = rows.shape[1:]
            _write_header(file, dtype, (0, *row))
        assert rows.shape[1:] == row, f"{path} has rows of {row}, not {rows.shape[1:]}"
        file.write(rows.astype(dtype, order="C", casting="same_kind").tobytes())
        count += len(rows)

    with path.open("wb") as file:
        yield write
        file.seek(0)
        _write_header(file, dtype, (count, *(row or ())))  # equally long: numpy pads it so that the first axis can grow


def read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Raises InputError if the file is damaged or not a numeric array."""
    with reading(path):
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode)
    return array


def _write_header(file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    description = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, description)
