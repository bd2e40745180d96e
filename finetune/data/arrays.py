"""Arrays in .npy files: written a few rows at a time, so that memory does not grow with them, and read back."""

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
    """A function that adds rows, [n, ...], of one shape."""
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
        _write_header(file, dtype, (count, *(row or ())))  # not longer: numpy leaves room for the first axis to grow


def read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Raises InputError where the file holds no whole array of numbers."""
    with reading(path):
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode)
    return array


def _write_header(file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    description = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, description)
